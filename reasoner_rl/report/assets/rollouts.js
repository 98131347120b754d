"use strict";
// The tab of responses: choose a step, filter, search, and open one.

const Rollouts = (() => {
  const LISTED = 150; // responses listed at once
  const state = { run: 0, set: null, step: null, scope: "step", verdict: "all", kind: "all", status: "all", component: "none",
    low: "", high: "", search: "", sort: "order" };
  let overview = null;
  let chosen = null; // { page, row }
  let hits = []; // [{ page, row, rows }]
  let listed = 0;
  let latest = 0;
  const parts = {}; // the elements that change

  const run = () => overview.runs[state.run];
  const pagesOfSet = () => run().pages.filter((page) => page.set === state.set);
  const page = () => pagesOfSet().find((one) => one.step === state.step);
  const rowsOf = (one) => Chunks.json(`${one.key}.rows`);

  // Bring the state to something that exists; responses may have come or gone.
  function settle() {
    if (!run()) state.run = 0;
    const sets = [...new Set(run().pages.map((one) => one.set))];
    if (!sets.includes(state.set)) state.set = sets[0] ?? null;
    const steps = pagesOfSet().map((one) => one.step);
    if (!steps.includes(state.step)) state.step = steps.at(-1) ?? null;
  }

  // A search reads /like this/ as a regular expression, anything else as text in any case.
  function pattern() {
    const text = state.search;
    if (text === "") return null;
    const expression = /^\/(.+)\/$/.exec(text);
    try {
      return expression ? new RegExp(expression[1], "g") : new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    } catch (error) {
      parts.count.textContent = `not a regular expression: ${error.message}`;
      return undefined;
    }
  }

  const finds = (wanted, text) => { wanted.lastIndex = 0; return wanted.test(text); };

  function passes(rows, row, wanted) {
    const value = (name) => rows.rows[name][row];
    const group = rows.groups[value("group")];
    if (state.verdict !== "all" && ResponsePane.verdictOf(rows, row) !== state.verdict) return false;
    if (state.kind === "truncated" && value("finish_reason") !== "length") return false;
    if (state.kind === "dropped" && !group.dropped) return false;
    if (state.kind === "kept" && group.dropped) return false;
    if (state.kind === "masked" && value("trained")) return false;
    if (state.status !== "all" && value("status") !== state.status) return false;
    if (state.component !== "none") {
      const score = state.component === "score" ? value("score") : value("components")[state.component];
      if (score === undefined || score === null) return false;
      if (state.low !== "" && score < Number(state.low)) return false;
      if (state.high !== "" && score > Number(state.high)) return false;
    }
    return !wanted || finds(wanted, value("response")) || finds(wanted, group.prompt) || finds(wanted, group.uid) ||
      finds(wanted, group.ground_truth) || finds(wanted, value("extracted") ?? "");
  }

  function sorted(found) {
    if (state.sort === "order") return found;
    const [name, sign] = [state.sort.slice(1), state.sort[0] === "+" ? 1 : -1];
    const key = ({ rows, row }) => rows.rows[name][row] ?? -Infinity;
    return found.sort((a, b) => sign * (key(a) - key(b)));
  }

  async function find() {
    const call = ++latest;
    const wanted = pattern();
    if (wanted === undefined) return;
    const pages = state.scope === "step" ? [page()] : pagesOfSet();
    const found = [];
    let whole = 0;
    for (const [number, one] of pages.entries()) {
      const rows = await rowsOf(one);
      if (call !== latest) return;
      for (let row = 0; row < rows.rows.group.length; row++) if (passes(rows, row, wanted)) found.push({ page: one, row, rows });
      whole += rows.rows.group.length;
      if (pages.length > 1 && number % 5 === 4) {
        parts.count.textContent = `${found.length.toLocaleString("en")} found, ${number + 1} of ${pages.length} steps read …`;
        await new Promise((resolve) => setTimeout(resolve));
      }
    }
    hits = sorted(found);
    parts.count.textContent = `${hits.length.toLocaleString("en")} of ${whole.toLocaleString("en")} responses`;
    await filterChoices(pages);
    list();
    const kept = hits.find((hit) => hit.page.key === chosen?.page.key && hit.row === chosen.row);
    if (hits.length && (!kept || !parts.pane.hasChildNodes())) await open((kept ?? hits[0]).page, (kept ?? hits[0]).row);
  }

  // Status and components that these pages have.
  async function filterChoices(pages) {
    const all = await Promise.all(pages.map(rowsOf));
    const statuses = [...new Set(all.flatMap((rows) => [...new Set(rows.rows.status)]))].sort();
    const components = [...new Set(all.flatMap((rows) => rows.rows.components.flatMap(Object.keys)))].sort();
    fill(parts.status, ["all", ...statuses.filter((name) => name !== "all")], state.status);
    fill(parts.component, ["none", "score", ...components.filter((name) => name !== "score")], state.component);
  }

  function fill(field, names, value) {
    const list = field.querySelector("select");
    if ([...list.options].map((option) => option.value).join("\n") === names.join("\n")) return;
    list.replaceChildren(...(names.includes(value) ? names : [...names, value]).map((name) => el("option", { value: name }, name)));
    list.value = value;
  }

  function item(hit) {
    const { page: one, row, rows } = hit;
    const verdict = ResponsePane.verdictOf(rows, row);
    const text = rows.rows.response[row];
    const group = rows.groups[rows.rows.group[row]];
    const isChosen = chosen?.page.key === one.key && chosen.row === row;
    return el("button", { class: `item ${verdict}${isChosen ? " chosen" : ""}`, "data-key": `${one.key}.${row}`, onclick: () => open(one, row) },
      el("span", { class: "first" }, state.scope === "step" ? null : el("span", { class: "step" }, `step ${one.step}`),
        el("b", {}, briefNumber(rows.rows.score[row])), el("span", { class: "answer" }, asText(rows.rows.extracted[row]).slice(0, 40)),
        group.dropped ? el("span", { class: "badge dropped" }, "dropped") : null,
        rows.rows.finish_reason[row] === "length" ? el("span", { class: "badge cut" }, "truncated") : null,
        rows.rows.status[row] === "ok" ? null : el("span", { class: "badge" }, rows.rows.status[row]),
        el("span", { class: "hint" }, `${rows.rows.tokens[row]} tokens`)),
      el("span", { class: "snippet" }, text.length > 130 ? `… ${text.slice(-130)}` : text));
  }

  function list() {
    listed = 0;
    parts.list.replaceChildren();
    more();
  }

  function more() {
    parts.list.querySelector(".more")?.remove();
    parts.list.append(...hits.slice(listed, listed + LISTED).map(item));
    listed = Math.min(hits.length, listed + LISTED);
    if (listed < hits.length) parts.list.append(el("button", { class: "more", onclick: more }, `${(hits.length - listed).toLocaleString("en")} more`));
    if (hits.length === 0) parts.list.append(el("p", { class: "empty" }, "No response passes these filters."));
  }

  async function open(one, row) {
    chosen = { page: one, row };
    const rows = await rowsOf(one);
    for (const other of parts.list.querySelectorAll(".chosen")) other.classList.remove("chosen");
    const own = parts.list.querySelector(`[data-key="${one.key}.${row}"]`);
    own?.classList.add("chosen");
    own?.scrollIntoView({ block: "nearest" });
    await ResponsePane.render(parts.pane, { run: run(), page: one, rows, highlight: pattern() ?? null }, row, open);
  }

  function move(by) {
    const now = hits.findIndex((hit) => hit.page.key === chosen?.page.key && hit.row === chosen.row);
    const hit = hits[now + by];
    if (!hit) return;
    while (now + by >= listed) more();
    open(hit.page, hit.row);
  }

  function moveStep(by) {
    const steps = pagesOfSet().map((one) => one.step);
    const next = steps[steps.indexOf(state.step) + by];
    if (next !== undefined) change({ step: next });
  }

  function change(values) {
    Object.assign(state, values);
    settle();
    controls();
    guarded(find);
  }

  const later = settled(200, () => guarded(find));

  function guarded(action) {
    Promise.resolve(action()).catch((error) => { parts.count.textContent = error.message; });
  }

  // One bar per step: how many were right, wrong and dropped.
  function stepBar() {
    const pages = pagesOfSet();
    const most = Math.max(1, ...pages.map((one) => one.responses));
    return el("div", { class: "steps", role: "listbox", "aria-label": "steps" }, pages.map((one) => {
      const height = (count) => `${(40 * count) / most}px`;
      return el("button", { class: one.step === state.step ? "chosen" : "", "data-step": one.step, onclick: () => change({ step: one.step }),
        title: `step ${one.step}: ${one.responses} responses, ${one.right} right, ${one.wrong} wrong, ${one.truncated} truncated, ${one.dropped} in dropped groups` },
      el("i", { class: "wrong", style: { height: height(one.responses - one.right) } }), el("i", { class: "right", style: { height: height(one.right) } }));
    }));
  }

  function controls() {
    const sets = [...new Set(run().pages.map((one) => one.set))];
    const options = (...names) => names.map((name) => [name, name]);
    const field = (name, label, choices) => select(label, choices, state[name], (value) => { state[name] = value; guarded(find); }, `filter-${name}`);
    parts.status = field("status", "verifier", options(...new Set(["all", state.status])));
    parts.component = field("component", "component", options(...new Set(["none", "score", state.component])));
    const bound = (name, label) => el("input", { type: "number", step: "any", id: `filter-${name}`, value: state[name], placeholder: label, "aria-label": `${label} of the component`,
      oninput: (event) => { state[name] = event.target.value; later(); } });
    parts.controls.replaceChildren(
      el("div", { class: "bar" },
        overview.runs.length > 1 ? select("run", overview.runs.map((one, number) => [String(number), one.name]), String(state.run), (value) => change({ run: Number(value) }), "filter-run") : null,
        select("responses", options(...sets), state.set, (value) => change({ set: value }), "filter-set"),
        select("step", pagesOfSet().map((one) => [String(one.step), String(one.step)]), String(state.step), (value) => change({ step: Number(value) }), "filter-step"),
        field("scope", "show", [["step", "this step"], ["all", "all steps"]]), stepBar()),
      el("div", { class: "bar" },
        el("input", { type: "search", id: "search", value: state.search, placeholder: "search text, or /regular expression/", "aria-label": "search",
          oninput: (event) => { state.search = event.target.value; later(); } }),
        field("verdict", "verdict", options("all", "right", "wrong", "unknown")),
        field("kind", "kind", [["all", "all"], ["truncated", "truncated"], ["dropped", "in dropped groups"], ["kept", "in kept groups"], ["masked", "masked out of the loss"]]),
        parts.status, parts.component, bound("low", "at least"), bound("high", "at most"),
        field("sort", "order", [["order", "as recorded"], ["-score", "highest score"], ["+score", "lowest score"], ["-tokens", "longest"], ["+tokens", "shortest"],
          ["+logprob", "least likely"], ["-gap", "largest gap"], ["-advantage", "highest advantage"], ["+advantage", "lowest advantage"]])));
  }

  function render(main, data) {
    overview = data;
    if (overview.runs.every((one) => one.pages.length === 0)) {
      main.append(el("p", { class: "empty" }, "No responses are recorded."), el("ul", { class: "notes" }, overview.runs.flatMap((one) => one.notes.map((note) => el("li", {}, note)))));
      return;
    }
    if (run()?.pages.length === 0 || !run()) state.run = overview.runs.findIndex((one) => one.pages.length > 0);
    parts.controls = el("div", { class: "controls" });
    parts.count = el("p", { class: "count", id: "count" });
    parts.list = el("div", { class: "list", id: "list" });
    parts.pane = el("div", { class: "pane", id: "pane" });
    main.append(parts.controls, el("div", { class: "browser" }, el("aside", {}, parts.count, parts.list), parts.pane),
      el("p", { class: "hint keys" }, "Keys: j and k for the next and previous response, ← and → for the step."));
    change({});
  }

  const pageKeys = (data) => data.runs.flatMap((one) => one.pages.map(({ key }) => key)).join();

  // New steps of a run that is writing. Returns whether they are shown; not while a filter is being typed.
  function update(data) {
    if (parts.controls.contains(document.activeElement)) return false;
    const changed = pageKeys(data) !== pageKeys(overview);
    overview = data;
    if (changed && run()?.pages.length > 0) { settle(); controls(); }
    return true;
  }

  function key(event) {
    const moves = { j: () => move(1), k: () => move(-1), ArrowLeft: () => moveStep(-1), ArrowRight: () => moveStep(1) };
    if (parts.list?.isConnected && event.key in moves) moves[event.key]();
  }

  return { render, update, key };
})();
