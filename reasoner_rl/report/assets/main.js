"use strict";
// Tabs, the list of runs, and following runs that are writing.

(() => {
  const EVERY_SECONDS = 3;
  const TABS = { curves: ["Curves", Curves], responses: ["Responses", Rollouts], evaluations: ["Evaluations", Evaluations],
    configuration: ["Configuration", Configuration], events: ["Events", Events] };
  const main = document.getElementById("main");
  const status = document.getElementById("status");
  let overview = null;
  let tab = null;

  function header() {
    document.getElementById("runs").replaceChildren(...overview.runs.map((run, number) => {
      const steps = Object.values(run.history).map(([found]) => found.at(-1));
      const last = steps.length ? `step ${Math.max(...steps)}` : "no metrics";
      const of = run.recipe["run.steps"] && steps.length ? ` of ${run.recipe["run.steps"]}` : "";
      return el("span", { class: "run", title: run.folder }, el("i", { style: { background: PALETTE[number % PALETTE.length] } }), overview.runs.length > 1 ? run.name : null,
        el("span", { class: "hint" }, [run.recipe["algorithm.kind"], last + of].filter(Boolean).join(", ")),
        run.notes.length ? el("button", { class: "badge warning", onclick: () => show("events"), title: run.notes.join("\n") }, run.notes.length === 1 ? "1 note" : `${run.notes.length} notes`) : null);
    }));
    const alarms = overview.runs.flatMap(Events.of).filter((event) => ["warning", "alarm", "error"].includes(event.kind)).length;
    document.getElementById("tabs").replaceChildren(...Object.entries(TABS).map(([name, [label]]) => el("button", { role: "tab", "data-tab": name,
      "aria-selected": String(name === tab), class: name === tab ? "chosen" : "", onclick: () => show(name) }, label,
    name === "events" && alarms ? el("span", { class: "badge warning" }, String(alarms)) : null)));
  }

  function show(name) {
    tab = name in TABS ? name : "curves";
    if (location.hash.slice(1) !== tab) history.replaceState(null, "", `#${tab}`);
    header();
    main.replaceChildren();
    main.dataset.tab = tab;
    TABS[tab][1].render(main, overview);
  }

  async function follow() {
    try {
      const next = await Chunks.overview();
      status.textContent = `following, read at ${new Date().toLocaleTimeString()}`;
      status.className = "";
      overview = next;
      header();
      if (tab === "curves" && !Curves.update(overview)) show(tab);
      else if (tab === "responses" && main.querySelector(".browser")) Rollouts.update(overview);
      else if (tab !== "curves" && !main.contains(document.activeElement)) show(tab);
    } catch (error) {
      status.textContent = `not following any more: ${error.message}`;
      status.className = "failing";
    }
    setTimeout(follow, 1000 * EVERY_SECONDS);
  }

  async function start() {
    overview = await Chunks.overview();
    show(location.hash.slice(1));
    addEventListener("hashchange", () => show(location.hash.slice(1)));
    addEventListener("keydown", (event) => {
      if (!["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && !event.ctrlKey && !event.metaKey) Rollouts.key(event);
    });
    document.body.dataset.ready = "yes";
    if (document.body.dataset.live === "yes") setTimeout(follow, 1000 * EVERY_SECONDS);
    else status.textContent = `made ${overview.made.replace("T", " ").replace("+00:00", " UTC")}`;
  }

  start().catch((error) => { main.replaceChildren(el("p", { class: "empty" }, `The report cannot be shown: ${error.message}`)); });
})();
