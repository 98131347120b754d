"use strict";
// What is known of each token, and tokens as coloured text.

const Tokens = (() => {
  const SHOWN = 3000; // tokens that are laid out at once
  const LOGPROB_UNIT = 1e-3, GAP_UNIT = 1e-4, UNKNOWN_GAP = -32768, ENTROPY_UNIT = 1e-3, UNKNOWN_ENTROPY = 65535; // as pages.py writes them

  const MODES = {
    logprob: { label: "logprob", needs: () => true },
    advantage: { label: "advantage", needs: (tokens) => tokens.advantage !== null },
    entropy: { label: "entropy", needs: (tokens) => tokens.entropy !== null },
    gap: { label: "train/rollout gap", needs: (tokens) => tokens.gap !== null },
  };

  // Whole numbers are split into all their low bytes, then the next, and so on.
  function whole(bytes, width, Kind) {
    const count = bytes.length / width;
    const values = new Kind(count);
    for (let plane = 0; plane < width; plane++) {
      const start = plane * count;
      for (let i = 0; i < count; i++) values[i] |= bytes[start + i] << (8 * plane);
    }
    return values;
  }

  const READ = {
    u16: (bytes) => whole(bytes, 2, Uint16Array), u32: (bytes) => whole(bytes, 4, Uint32Array),
    i16: (bytes) => whole(bytes, 2, Int16Array), u8: (bytes) => bytes, f32: (bytes) => new Float32Array(bytes.slice().buffer),
  };

  function decode(bytes) {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const columns = {};
    let start = 4 + length;
    for (const [name, kind, size] of header.columns) {
      columns[name] = READ[kind](bytes.subarray(start, start + size));
      start += size;
    }
    return { first: header.first, offsets: header.offsets, columns };
  }

  const parts = new Map();
  function part(key) {
    if (!parts.has(key)) parts.set(key, Chunks.bytes(key).then(decode));
    return parts.get(key);
  }

  // The tokens of one response; null where the record has none.
  async function of(run, page, rows, row) {
    const number = rows.parts.findIndex(([first, last]) => first <= row && row < last);
    if (number < 0) return null;
    const { first, offsets, columns } = await part(`${page.key}.tokens.${number}`);
    const [start, end] = [offsets[row - first], offsets[row - first + 1]];
    const cut = (name) => (name in columns ? columns[name].subarray(start, end) : null);
    const ids = cut("ids");
    const flat = columns.advantage ? columns.advantage[row - first] : NaN;
    const each = cut("advantages") ?? (Number.isNaN(flat) ? null : new Float32Array(ids.length).fill(flat));
    const gap = cut("gap"), entropy = cut("entropy");
    return {
      ids, logprob: Float32Array.from(cut("logprobs"), (value) => -value * LOGPROB_UNIT),
      gap: gap && gap.some((value) => value !== UNKNOWN_GAP) ? Float32Array.from(gap, (value) => value * GAP_UNIT) : null,
      entropy: entropy && entropy.some((value) => value !== UNKNOWN_ENTROPY) ? Float32Array.from(entropy, (value) => value * ENTROPY_UNIT) : null,
      advantage: each && each.some((value) => !Number.isNaN(value)) ? each : null,
      trained: cut("trained"), pieces: run.pieces ? await Chunks.json(`${run.key}.pieces`) : null,
    };
  }

  // Units of text: tokens, or several tokens where only together they are whole characters.
  function* units(tokens, from, to) {
    const decoder = new TextDecoder("utf-8", { fatal: true });
    let bytes = [];
    let first = from;
    for (let i = from; i < to; i++) {
      const piece = tokens.pieces ? tokens.pieces[tokens.ids[i]] : null;
      if (Array.isArray(piece)) {
        if (bytes.length === 0) first = i;
        bytes.push(...piece);
        let text = null;
        try { text = decoder.decode(Uint8Array.from(bytes)); } catch { /* not whole yet */ }
        if (text !== null || bytes.length >= 8) {
          yield [text ?? new TextDecoder().decode(Uint8Array.from(bytes)), first, i];
          bytes = [];
        }
        continue;
      }
      if (bytes.length) {
        yield [new TextDecoder().decode(Uint8Array.from(bytes)), first, i - 1];
        bytes = [];
      }
      yield [typeof piece === "string" ? piece : ` ⟨${tokens.ids[i]}⟩`, i, i];
    }
    if (bytes.length) yield [new TextDecoder().decode(Uint8Array.from(bytes)), first, to - 1];
  }

  const LOW = "213, 94, 0", HIGH = "0, 114, 178", ABOVE = "0, 158, 115", BELOW = "204, 121, 167";
  const largest = (values) => values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);

  function scale(mode, tokens) {
    if (mode === "logprob") return 5;
    if (mode === "advantage") return Math.max(1, largest(tokens.advantage));
    if (mode === "entropy") return Math.max(0.1, largest(tokens.entropy));
    return Math.max(0.01, largest(tokens.gap));
  }

  function colour(mode, value, top) {
    const share = Math.min(1, Math.abs(value) / top);
    if (!(share > 0.004)) return "";
    if (mode === "logprob") return `rgba(${LOW}, ${(0.75 * share ** 0.7).toFixed(3)})`;
    if (mode === "entropy") return `rgba(${HIGH}, ${(0.75 * share ** 0.7).toFixed(3)})`;
    const hue = mode === "advantage" ? (value > 0 ? HIGH : LOW) : (value > 0 ? ABOVE : BELOW);
    return `rgba(${hue}, ${(0.65 * share ** 0.8).toFixed(3)})`;
  }

  function legend(mode, top) {
    const [left, right] = { logprob: [`≤ −${top}`, "0"], advantage: [`−${shortNumber(top)}`, `+${shortNumber(top)}`],
      entropy: ["0", `${shortNumber(top)} nats`],
      gap: [`trainer lower by ${shortNumber(top)}`, `higher by ${shortNumber(top)} nats`] }[mode];
    const stops = mode === "logprob" ? [-top, -top / 2, 0] : mode === "entropy" ? [0, top / 2, top] : [-top, -top / 2, 0, top / 2, top];
    return el("span", { class: "legend" }, left, el("span", { class: "ramp", style: {
      background: `linear-gradient(to right, ${stops.map((value) => colour(mode, value, top) || "transparent").join(", ")})` } }), right);
  }

  function describe(tokens, first, last) {
    const said = [];
    for (let i = first; i <= last; i++) {
      const logprob = tokens.logprob[i];
      said.push([`token ${i + 1}, id ${tokens.ids[i]}`, `logprob ${logprob.toFixed(3)} (probability ${Math.exp(logprob).toFixed(3)})`,
        tokens.gap && `trainer ${tokens.gap[i] >= 0 ? "+" : "−"}${Math.abs(tokens.gap[i]).toFixed(4)} nats`,
        tokens.entropy && `entropy ${tokens.entropy[i].toFixed(3)} nats`,
        tokens.advantage && `advantage ${tokens.advantage[i].toFixed(3)}`,
        tokens.trained && !tokens.trained[i] && "masked out of the loss"].filter(Boolean).join("\n"));
    }
    return said.join("\n\n");
  }

  // Coloured tokens in a new element, `shown` at first.
  function show(tokens, mode, shown = SHOWN) {
    const top = scale(mode, tokens);
    const values = tokens[mode];
    const text = el("div", { class: "text tokens", onmouseover: (event) => {
      const { first, last } = event.target.dataset;
      if (first !== undefined && !event.target.title) event.target.title = describe(tokens, Number(first), Number(last));
    } });
    let next = 0;
    const more = el("button", { class: "more", onclick: () => add() });
    function add() {
      const end = Math.min(tokens.ids.length, next + shown);
      const found = document.createDocumentFragment();
      for (const [piece, first, last] of units(tokens, next, end)) {
        const span = document.createElement("span");
        span.textContent = piece;
        span.dataset.first = first;
        span.dataset.last = last;
        span.style.backgroundColor = colour(mode, values[first], top);
        if (tokens.trained && !tokens.trained[first]) span.className = "masked";
        found.append(span);
      }
      more.before(found);
      next = end;
      more.textContent = `${(tokens.ids.length - next).toLocaleString("en")} more tokens`;
      more.hidden = next >= tokens.ids.length;
    }
    text.append(more);
    add();
    return el("div", {}, shown < SHOWN && mode === "logprob" ? null : el("div", { class: "legends" }, legend(mode, top)), text);
  }

  return { MODES, of, show };
})();
