"use strict";
// One response in full, with its group's siblings and the same problem in other steps.

const ResponsePane = (() => {
  const SHOWN = { whole: 20000, column: 2000 }; // characters, and in columns tokens, that are laid out at once
  let view = "mathematics";
  let beside = "siblings"; // none, siblings, steps
  let latest = 0; // only the newest of several calls may draw

  const verdictOf = (rows, row) => {
    const accuracy = rows.rows.accuracy[row];
    return accuracy === null ? "unknown" : accuracy >= 1 ? "right" : "wrong";
  };

  // A text of any length, with formulas or plain.
  function written(text, rendered, highlight, shown = SHOWN.whole) {
    const place = el("div", { class: "text" });
    let next = 0;
    const more = el("button", { class: "more", onclick: () => add() });
    function add() {
      const piece = text.slice(next, next + shown);
      more.before(...(rendered ? Mathematics.nodes(piece, highlight) : [piece]));
      next += piece.length;
      more.textContent = `${(text.length - next).toLocaleString("en")} more characters`;
      more.hidden = next >= text.length;
    }
    place.append(more);
    add();
    if (text === "") place.prepend(el("span", { class: "hint" }, "(empty)"));
    return place;
  }

  async function body(context, row, shown) {
    const { run, page, rows, highlight } = context;
    const text = rows.rows.response[row];
    if (view === "mathematics" || view === "plain") return written(text, view === "mathematics", highlight, shown);
    const tokens = await Tokens.of(run, page, rows, row);
    if (!tokens || !Tokens.MODES[view].needs(tokens)) {
      return el("div", {}, el("p", { class: "hint" }, `The ${Tokens.MODES[view].label} of its tokens is not in this record.`), written(text, true, highlight, shown));
    }
    return Tokens.show(tokens, view, shown);
  }

  function views(context, redraw) {
    const hasTokens = context.rows.parts.length > 0;
    const options = [["mathematics", "mathematics"], ["plain", "plain text"], ...Object.entries(Tokens.MODES).map(([name, mode]) => [name, mode.label])];
    return el("div", { class: "segments", role: "group", "aria-label": "show the response as" }, options.map(([name, label]) => {
      const off = name in Tokens.MODES && !hasTokens;
      return el("button", { "data-view": name, class: name === view ? "chosen" : "", disabled: off,
        title: off ? "This record is JSONL, which has means alone." : name in Tokens.MODES ? `Colour tokens by ${label}` : "",
        onclick: () => { view = name; redraw(); } }, label);
    }), hasTokens ? null : el("span", { class: "hint" }, "No per-token columns: this record is JSONL."));
  }

  function facts({ rows }, row) {
    const value = (name) => rows.rows[name][row];
    const components = Object.entries(value("components")).map(([name, score]) => `${name} ${briefNumber(score)}`).join(", ");
    const pairs = [["score", briefNumber(value("score"))], ["components", components || "–"], ["answer found", asText(value("extracted"))],
      ["verifier", value("status")], ["tokens", `${value("tokens")}${value("finish_reason") === "length" ? ", cut off at the limit" : ""}`],
      ["advantage (mean)", shortNumber(value("advantage"))], ["logprob (mean)", shortNumber(value("logprob"))],
      ["|train/rollout gap| (mean)", value("gap") === null ? "–" : value("gap").toExponential(1)],
      ["policy version", String(value("policy_version"))], ["in the loss", value("trained") ? "yes" : "no (masked)"]];
    return el("dl", { class: "facts" }, pairs.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
  }

  function badges({ rows }, row) {
    const verdict = verdictOf(rows, row);
    return [el("span", { class: `badge ${verdict}` }, verdict),
      rows.rows.finish_reason[row] === "length" ? el("span", { class: "badge cut" }, "truncated") : null,
      rows.groups[rows.rows.group[row]].dropped ? el("span", { class: "badge dropped" }, "dropped") : null];
  }

  const membersOf = (rows, row) => rows.rows.group.flatMap((group, other) => (group === rows.rows.group[row] ? [other] : []));

  // One chip per response of the group: its verdict and score.
  function strip(context, row, open) {
    return el("div", { class: "strip" }, membersOf(context.rows, row).map((other, place) => el("button", {
      class: `chip ${verdictOf(context.rows, other)}${other === row ? " chosen" : ""}`,
      title: `response ${place + 1} of the group, ${context.rows.rows.tokens[other]} tokens`,
      onclick: () => open(context.page, other) }, briefNumber(context.rows.rows.score[other]))));
  }

  async function column(context, row, title, open) {
    return el("article", { class: "column" },
      el("header", {}, el("button", { class: "link", onclick: () => open(context.page, row) }, title), ...badges(context, row).filter(Boolean),
        el("span", { class: "hint" }, `score ${briefNumber(context.rows.rows.score[row])}, ${context.rows.rows.tokens[row]} tokens`)),
      await body(context, row, SHOWN.column));
  }

  async function siblings(context, row, open) {
    return Promise.all(membersOf(context.rows, row).map((other, place) => column(context, other, `response ${place + 1}`, open)));
  }

  const pagesWith = (context, uid) => context.run.pages.filter((page) => page.set === context.page.set && uid in page.problems);

  // The response at the same place in its group, in every step that had the problem.
  async function steps(context, row, open) {
    const uid = context.rows.groups[context.rows.rows.group[row]].uid;
    const place = membersOf(context.rows, row).indexOf(row);
    return Promise.all(pagesWith(context, uid).map(async (page) => {
      const rows = await Chunks.json(`${page.key}.rows`);
      const first = rows.rows.group.findIndex((group) => rows.groups[group].uid === uid);
      const members = membersOf(rows, first);
      const [count, right] = page.problems[uid];
      const other = members[Math.min(place, members.length - 1)];
      return column({ ...context, page, rows }, other, `step ${page.step}: ${right} of ${count} right`, open);
    }));
  }

  // Draw a response into `pane`. open(page, row) chooses another.
  async function render(pane, context, row, open) {
    const call = ++latest;
    await Mathematics.ready();
    const { rows, page } = context;
    const group = rows.groups[rows.rows.group[row]];
    const others = pagesWith(context, group.uid);
    const redraw = () => render(pane, context, row, open);
    const main = await body(context, row);
    const columns = beside === "siblings" ? await siblings(context, row, open) : beside === "steps" ? await steps(context, row, open) : [];
    if (call !== latest) return;
    const toggle = (name, label, count) => el("button", { class: beside === name ? "chosen" : "", "data-beside": name, disabled: count < 2,
      onclick: () => { beside = beside === name ? "none" : name; redraw(); } }, `${label} (${count})`);
    pane.replaceChildren(
      el("header", { class: "response-head" }, el("h2", {}, `Step ${page.step}`, el("span", { class: "hint" }, group.uid)), ...badges(context, row).filter(Boolean),
        el("span", { class: "gold" }, "expected ", el("b", {}, ...Mathematics.nodes(group.ground_truth.slice(0, 300)))),
        el("span", { class: "gold" }, "found ", el("b", {}, asText(rows.rows.extracted[row])))),
      facts(context, row),
      el("details", { open: group.prompt.length < 2500 }, el("summary", {}, "Prompt"), written(group.prompt, true, null)),
      el("div", { class: "bar" }, views(context, redraw)),
      el("div", { class: "response" }, main),
      el("div", { class: "bar group" }, el("span", {}, "Group"), strip(context, row, open),
        el("div", { class: "segments" }, toggle("siblings", "side by side", membersOf(rows, row).length), toggle("steps", "the same problem across steps", others.length))),
      el("div", { class: "columns" }, columns));
  }

  return { render, verdictOf };
})();
