"use strict";
// Data that is loaded when it is needed: from the page itself, or by a script from the folder beside it or the server.
// Every chunk is gzip in base64.

const Chunks = (() => {
  const loading = new Map(); // key -> promise of the unpacked bytes
  const awaited = new Map(); // key -> what takes the base64 that a script brings

  function fromBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  }

  async function unpack(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function byScript(key) {
    return new Promise((resolve, reject) => {
      awaited.set(key, resolve);
      const script = document.createElement("script");
      script.src = `${document.body.dataset.folder}/${key}.js`;
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(`${script.src} cannot be loaded: keep the folder beside the page`));
      document.head.append(script);
    });
  }

  async function load(key) {
    const element = document.getElementById(`chunk:${key}`);
    return unpack(fromBase64(element ? element.textContent : await byScript(key)));
  }

  function bytes(key) {
    if (!loading.has(key)) {
      const promise = load(key);
      promise.catch(() => loading.delete(key)); // so that it can be tried again
      loading.set(key, promise);
    }
    return loading.get(key);
  }

  const text = async (key) => new TextDecoder().decode(await bytes(key));
  const parsed = new Map();

  function json(key) {
    if (!parsed.has(key)) {
      const promise = text(key).then((found) => JSON.parse(found));
      promise.catch(() => parsed.delete(key));
      promise.finally(() => loading.delete(key)).catch(() => {});
      parsed.set(key, promise);
    }
    return parsed.get(key);
  }

  const libraries = new Map();

  // Run the source of a library once. It defines a global.
  function library(key) {
    if (!libraries.has(key)) {
      libraries.set(key, text(key).then((source) => {
        const script = document.createElement("script");
        script.textContent = source;
        document.head.append(script);
        loading.delete(key);
      }));
    }
    return libraries.get(key);
  }

  function receive(key, base64) {
    awaited.get(key)?.(base64);
    awaited.delete(key);
  }

  // The overview, which a server makes anew each time.
  async function overview() {
    if (document.body.dataset.live !== "yes") return json("overview");
    const answer = await fetch("/overview");
    if (!answer.ok) throw new Error(await answer.text());
    return JSON.parse(new TextDecoder().decode(await unpack(new Uint8Array(await answer.arrayBuffer()))));
  }

  return { bytes, json, library, overview, receive };
})();

const receiveChunk = Chunks.receive;
