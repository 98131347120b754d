"use strict";
// Text with TeX in it, as nodes: formulas become MathML by KaTeX, everything else stays text.

const Mathematics = (() => {
  const LONGEST = 2000; // characters of a formula; a longer one is text
  const MOST = 400; // formulas of one text
  const BOX = String.raw`\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,300}\}){0,300}\}){0,300}\}`;
  const FORMULA = new RegExp([
    String.raw`\$\$[^$]{1,${LONGEST}}?\$\$`,
    String.raw`\\\[[^]{1,${LONGEST}}?\\\]`,
    String.raw`\\\([^]{1,${LONGEST}}?\\\)`,
    // As in pandoc: no space inside the dollars, no digit after them, one line.
    String.raw`\$(?![\s$])(?:\\.|[^$\\\n]){1,${LONGEST}}?(?<!\s)\$(?!\d)`,
    BOX,
  ].join("|"), "g");

  function inside(found) {
    if (found.startsWith("$$")) return [found.slice(2, -2), true];
    if (found.startsWith("\\[")) return [found.slice(2, -2), true];
    if (found.startsWith("\\(")) return [found.slice(2, -2), false];
    return [found.startsWith("$") ? found.slice(1, -1) : found, false];
  }

  function formula(source, displayMode) {
    const place = el("span", { class: displayMode ? "formula display" : "formula", title: source });
    // trust is off: no links, no HTML from TeX. MathML alone: no style sheet and no fonts.
    katex.render(source, place, {
      displayMode, output: "mathml", throwOnError: true, strict: false, trust: false, maxExpand: 500, maxSize: 20,
    });
    return place;
  }

  // The nodes of a text. `highlight`: a regular expression, or null, whose matches outside formulas are marked.
  function nodes(text, highlight = null) {
    const parts = [];
    let last = 0;
    let count = 0;
    for (const match of text.matchAll(FORMULA)) {
      if (++count > MOST) break;
      let rendered;
      try {
        rendered = formula(...inside(match[0]));
      } catch {
        continue; // not TeX after all
      }
      parts.push(...marked(text.slice(last, match.index), highlight), rendered);
      last = match.index + match[0].length;
    }
    parts.push(...marked(text.slice(last), highlight));
    return parts;
  }

  function marked(text, highlight) {
    if (!highlight) return [text];
    const parts = [];
    let last = 0;
    for (const match of text.matchAll(highlight)) {
      if (match[0] === "") break;
      parts.push(text.slice(last, match.index), el("mark", {}, match[0]));
      last = match.index + match[0].length;
    }
    parts.push(text.slice(last));
    return parts;
  }

  return { nodes, ready: () => Chunks.library("library.katex") };
})();
