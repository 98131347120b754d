"use strict";
// The tab of learning curves. Charts are drawn when they come into view.

const Curves = (() => {
  const SMOOTHED_FROM = 20; // points; a shorter curve is drawn as it is
  const drawn = new Map(); // panel's title -> { place, panel }
  let smooth = true;
  let observer = null;
  let runsShown = [];
  let meanings = {}; // of metrics, by name

  // The tooltip of a panel's title.
  const meaningOf = (panel) => [...new Set(panel.series.map((line) => line.name))].filter((name) => name in meanings)
    .map((name) => `${name}: ${meanings[name]}`).join("\n\n");

  // Centred moving average over a fifteenth of the points; at the ends, over those of them that exist.
  function smoothed(numbers) {
    const half = Math.max(1, Math.floor(numbers.length / 30));
    return numbers.map((_, i) => {
      const part = numbers.slice(Math.max(0, i - half), i + half + 1);
      return part.reduce((sum, value) => sum + value, 0) / part.length;
    });
  }

  function lines(panel) {
    return panel.series.flatMap((line) => {
      const base = { x: line.steps, type: "scatter", name: line.title ?? line.label, legendgroup: line.label, showlegend: !line.several };
      const style = { color: line.colour, dash: line.dash, width: 2 };
      if (line.points) {
        const interval = line.interval && { type: "data", symmetric: false, thickness: 1, width: 3, color: line.colour,
          array: line.interval.high.map((high, i) => high - line.numbers[i]),
          arrayminus: line.interval.low.map((low, i) => line.numbers[i] - low) };
        return [{ ...base, y: line.numbers, mode: "lines+markers", line: style, marker: { size: 6 },
          ...(interval ? { error_y: interval } : {}) }];
      }
      if (!smooth || line.numbers.length <= SMOOTHED_FROM) {
        const few = line.numbers.length <= SMOOTHED_FROM;
        return [{ ...base, y: line.numbers, mode: few ? "lines+markers" : "lines", line: { ...style, width: few ? 2 : 1.5 },
          marker: { size: 4 } }];
      }
      return [
        { ...base, y: line.numbers, mode: "lines", line: { ...style, width: 1 }, opacity: 0.28, showlegend: false, hoverinfo: "skip" },
        { ...base, y: smoothed(line.numbers), mode: "lines", line: style },
      ];
    });
  }

  // Of several runs the legend says what the dashes mean; the colours are in the page's head.
  function dashes(panel) {
    const byLabel = new Map(panel.series.filter((line) => line.several).map((line) => [line.label, line.dash]));
    if (byLabel.size < 2) return [];
    return [...byLabel].map(([name, dash]) => ({ x: [null], y: [null], type: "scatter", mode: "lines", name, legendgroup: name,
      line: { color: cssColour("--soft"), dash, width: 2 } }));
  }

  const stack = (panel) => panel.series.map((line) => ({
    x: line.steps, y: line.numbers, type: "bar", name: line.label, marker: { color: line.colour, line: { width: 0 } },
  }));

  function layout(panel) {
    const ink = cssColour("--ink");
    const grid = cssColour("--grid");
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickfont: { size: 11 }, automargin: true };
    const last = Math.max(0, ...panel.series.flatMap((line) => line.steps));
    const share = panel.unit === "share";
    const positive = panel.series.some((line) => line.numbers.some((value) => value > 0));
    return {
      margin: { l: 48, r: 12, t: 8, b: 34 }, height: 250, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: ink }, hovermode: "x unified", barmode: "stack", bargap: 0.12,
      hoverlabel: { bgcolor: cssColour("--card"), bordercolor: grid, font: { color: ink, size: 12 } },
      showlegend: new Set(panel.series.map((line) => line.label)).size > 1,
      legend: { orientation: "h", y: -0.16, x: 0, font: { size: 11 }, itemwidth: 30 },
      xaxis: { ...axis, tickformat: "d", ...(last <= 10 ? { dtick: 1 } : { nticks: 8 }), title: { text: "" } },
      yaxis: { ...axis, title: { text: share || !panel.unit ? "" : panel.unit, font: { size: 11 } },
        ...(share ? { tickformat: ".3~p", rangemode: "tozero" } : {}), ...(panel.zero ? { rangemode: "tozero" } : {}), ...(panel.tiny ? { tickformat: ".2~e" } : {}),
        ...(panel.log && positive ? { type: "log", tickformat: ".1~e", nticks: 5 } : {}) },
      shapes: marks(), uirevision: "kept",
    };
  }

  // A thin line where a run resumed, warned, raised an alarm or failed.
  function marks() {
    const colours = { resume: "#999999", return: "#999999", warning: "#E69F00", alarm: "#D55E00", error: "#D55E00", stop: "#999999" };
    return runsShown.flatMap((run) => run.events).filter((event) => event.kind in colours).map((event) => ({
      type: "line", x0: event.step, x1: event.step, yref: "paper", y0: 0, y1: 1, layer: "below",
      line: { color: colours[event.kind], width: 1, dash: "dot" },
    }));
  }

  const settings = { displaylogo: false, responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };

  async function draw(place, panel) {
    await Chunks.library("library.plotly");
    if (!place.isConnected) return;
    const first = !place.dataset.drawn;
    await Plotly.react(place, panel.kind === "stack" ? stack(panel) : [...lines(panel), ...dashes(panel)], layout(panel), settings);
    place.dataset.drawn = "yes";
    if (first) place.on("plotly_relayout", (change) => follow(place, change));
  }

  // A range of steps chosen in one chart holds for all.
  let following = false;
  function follow(source, change) {
    const low = change["xaxis.range[0]"];
    const whole = change["xaxis.autorange"];
    if (following || (low === undefined && !whole)) return;
    following = true;
    const update = whole ? { "xaxis.autorange": true } : { "xaxis.range": [low, change["xaxis.range[1]"]] };
    const others = [...drawn.values()].filter(({ place }) => place !== source && place.dataset.drawn);
    Promise.all(others.map(({ place }) => Plotly.relayout(place, update))).finally(() => { following = false; });
  }

  function card(panel) {
    const place = el("div", { class: "chart" });
    drawn.set(panel.title, { place, panel });
    observer.observe(place);
    const labels = [...new Set(panel.series.map((line) => line.label))];
    const only = labels.length === 1 && !panel.title.toLowerCase().includes(labels[0]) ? labels[0] : "";
    return el("section", { class: "card" }, el("h3", { title: meaningOf(panel) }, panel.title, " ", el("span", { class: "hint" }, only)), place);
  }

  function explorer(runs, names, others) {
    const place = el("div", { class: "chart" });
    const chosen = others[0] ?? names[0];
    const heading = el("h3", {}, "Any metric");
    const pick = (name) => {
      const panel = Panels.metricPanel(runs, name);
      heading.title = meaningOf(panel);
      return draw(place, panel);
    };
    const wide = el("section", { class: "card explorer" },
      heading, select("", names.map((name) => [name, name]), chosen, pick, "any-metric"), place);
    new IntersectionObserver((entries, self) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      self.disconnect();
      pick(document.getElementById("any-metric").value);
    }).observe(place);
    return wide;
  }

  function watch() {
    observer?.disconnect();
    observer = new IntersectionObserver((entries) => {
      for (const entry of entries.filter(({ isIntersecting }) => isIntersecting)) {
        observer.unobserve(entry.target);
        const found = [...drawn.values()].find(({ place }) => place === entry.target);
        if (found) draw(found.place, found.panel);
      }
    }, { rootMargin: "300px" });
  }

  function render(main, overview) {
    runsShown = overview.runs;
    meanings = overview.meanings;
    const { panels, others, names } = Panels.all(overview.runs);
    drawn.clear();
    watch();
    if (panels.length === 0) {
      main.append(el("p", { class: "empty" }, "No metrics are recorded yet."));
      return;
    }
    main.append(
      el("div", { class: "bar" }, el("label", { class: "check" },
        el("input", { type: "checkbox", id: "smooth", checked: smooth, onchange: (event) => { smooth = event.target.checked; redraw(); } }),
        `smooth curves of over ${SMOOTHED_FROM} steps`),
      el("span", { class: "hint" }, "Drag in a chart to choose a range of steps for all of them; double-click for the whole run.")),
      el("div", { class: "cards" }, panels.map(card), explorer(overview.runs, names, others)));
  }

  function redraw() {
    for (const { place, panel } of drawn.values()) if (place.dataset.drawn) draw(place, panel);
  }

  // New numbers of a run that is writing. Returns whether the charts on the page could take them.
  function update(overview) {
    runsShown = overview.runs;
    const { panels } = Panels.all(overview.runs);
    if (panels.length !== drawn.size || panels.some((panel) => !drawn.has(panel.title))) return false;
    for (const panel of panels) drawn.get(panel.title).panel = panel;
    redraw();
    return true;
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return { render, update };
})();
