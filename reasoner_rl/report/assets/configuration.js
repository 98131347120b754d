"use strict";
// The tabs of configuration and versions, evaluations, and events.

const Configuration = (() => {
  const heading = (text, hint) => el("h2", {}, text, hint ? el("span", { class: "hint" }, hint) : null);

  function differing(run) {
    if (!run.shipped) return el("p", { class: "empty" }, "No recipe of this run can be compared with a shipped one.");
    const { name, differences } = run.shipped;
    const said = differences.length === 0 ? `The same as the shipped recipe ${name}.`
      : `${differences.length} keys differ from ${name}, of the shipped recipes of its kind and algorithm the nearest.`;
    return [el("p", {}, said), differences.length === 0 ? null : table(["key", "this run", name],
      differences.map(({ key, here, there }) => [el("code", {}, key), el("code", { class: "changed" }, asText(here)),
        el("code", {}, asText(there))]))];
  }

  function everyKey(runs) {
    const keys = [...new Set(runs.flatMap((run) => Object.keys(run.recipe)))];
    const place = el("div");
    const show = (wanted) => {
      const found = keys.filter((key) => key.includes(wanted.trim()));
      place.replaceChildren(table(["key", ...runs.map((run) => run.name)], found.map((key) =>
        [el("code", {}, key), ...runs.map((run) => el("code", {}, asText(run.recipe[key])))])));
    };
    show("");
    return [el("input", { type: "search", id: "key-search", placeholder: "part of a key, such as optimizer",
      "aria-label": "part of a key", oninput: (event) => show(event.target.value) }), place];
  }

  function render(main, overview) {
    const { runs, between } = overview;
    if (runs.length > 1) {
      main.append(heading("Between the runs"), between.length === 0
        ? el("p", {}, "All keys have the same values.")
        : table(["key", ...runs.map((run) => run.name)], between.map(([key, values]) =>
          [el("code", {}, key), ...values.map((value) => el("code", { class: "changed" }, asText(value)))])));
    }
    for (const run of runs) main.append(heading(runs.length > 1 ? run.name : "What differs", run.folder), ...[differing(run)].flat().filter(Boolean));
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.versions)))];
    main.append(heading("Versions and machine"), table(["", ...runs.map((run) => run.name)],
      names.map((name) => [name, ...runs.map((run) => el("code", {}, asText(run.versions[name])))])));
    main.append(heading("Every key"), ...everyKey(runs));
  }

  return { render, heading };
})();

const Evaluations = (() => {
  const TITLES = { accuracy: "accuracy (avg@k)", pass_at_k: "pass@k", majority_at_k: "maj@k", score: "mean score",
    response_length_mean: "tokens", truncated_share: "truncated", unanswered_share: "unanswered" };
  const SHARES = new Set(["accuracy", "pass_at_k", "majority_at_k", "truncated_share", "unanswered_share"]);

  const cell = (name, value) => (value === undefined || value === null ? "–" : SHARES.has(name) ? value.toFixed(3) : shortNumber(value));

  // Evaluations while training, read off the metrics: one table per run and dataset.
  function whileTraining(run) {
    const found = new Map();
    for (const name of Object.keys(run.history)) {
      const match = /^eval\/(.+)\/([a-z_]+)$/.exec(name);
      if (match) found.set(match[1], [...(found.get(match[1]) ?? []), match[2]]);
    }
    return [...found].map(([dataset, names]) => {
      const by = Object.fromEntries(names.map((name) => {
        const [steps, numbers] = run.history[`eval/${dataset}/${name}`];
        return [name, new Map(steps.map((step, i) => [step, numbers[i]]))];
      }));
      const columns = [...Object.keys(TITLES), ...names.filter((name) => !(name in TITLES) && !name.startsWith("ci_"))]
        .filter((name) => names.includes(name));
      const steps = [...new Set(names.flatMap((name) => run.history[`eval/${dataset}/${name}`][0]))].sort((a, b) => a - b);
      const rows = steps.map((step) => [String(step), ...columns.flatMap((name) => [
        cell(name, by[name].get(step)), ...(name === "accuracy" && by.ci_low
          ? [`${cell("accuracy", by.ci_low.get(step))} to ${cell("accuracy", by.ci_high?.get(step))}`] : [])])]);
      const titles = columns.flatMap((name) => [TITLES[name] ?? name, ...(name === "accuracy" && by.ci_low ? ["95 % interval"] : [])]);
      return [Configuration.heading(dataset, `${run.name}, while training`), table(["step", ...titles], rows, { class: "numbers" })];
    });
  }

  function reports(run) {
    if (run.reports.length === 0) return [];
    const names = [...new Set(run.reports.flatMap((report) => Object.keys(report)))]
      .filter((name) => run.reports.some((report) => typeof report[name] !== "object" && report[name] !== null));
    return [Configuration.heading("reasoner-rl eval", run.name), table(names, run.reports.map((report) =>
      names.map((name) => (typeof report[name] === "number" ? shortNumber(report[name]) : asText(report[name])))), { class: "numbers" })];
  }

  function render(main, overview) {
    const found = overview.runs.flatMap((run) => [...whileTraining(run).flat(), ...reports(run)]);
    main.append(...(found.length ? found : [el("p", { class: "empty" }, "Nothing was evaluated.")]));
  }

  return { render };
})();

const Events = (() => {
  // Events that are numbers of a step.
  function ofMetrics(run) {
    const skipped = run.history["groups/skipped_steps"];
    const failing = [["reward/timeouts", "responses whose verifier timed out"], ["reward/crashes", "responses whose verifier crashed"]];
    const rows = skipped ? skipped[0].filter((_, i) => skipped[1][i] > 0)
      .map((step) => ({ step, time: "", kind: "warning", text: "skipped: no group to train on, no update" })) : [];
    for (const [name, text] of failing) {
      const [steps, numbers] = run.history[name] ?? [[], []];
      rows.push(...steps.flatMap((step, i) => (numbers[i] > 0 ? [{ step, time: "", kind: "warning", text: `${shortNumber(numbers[i])} ${text}` }] : [])));
    }
    return rows;
  }

  const of = (run) => [...run.events, ...ofMetrics(run)].sort((a, b) => a.step - b.step);

  function render(main, overview) {
    for (const run of overview.runs) {
      const rows = of(run);
      main.append(Configuration.heading(overview.runs.length > 1 ? run.name : "Events", run.folder));
      main.append(rows.length === 0
        ? el("p", { class: "empty" }, "No events are recorded (a run writes them to events.jsonl of its folder).")
        : table(["step", "time", "", "what"], rows.map((event) => [String(event.step), event.time.replace("T", " ").replace("+00:00", " UTC"),
          el("span", { class: `badge ${event.kind}` }, event.kind), event.text])));
      if (run.notes.length) {
        main.append(el("h3", {}, "What this report could not read"), el("ul", { class: "notes" }, run.notes.map((note) => el("li", {}, note))));
      }
    }
  }

  return { render, of };
})();
