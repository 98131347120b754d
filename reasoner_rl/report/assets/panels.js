"use strict";
// Which curves there are: each panel answers one question, and is drawn where a run has metrics for it.

// Okabe and Ito's palette, which the colour-blind can tell apart.
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

const Panels = (() => {
  // Metrics reward/NAME that are no component of the reward.
  const NO_COMPONENT = new Set(["score", "accuracy", "accuracy_unknown", "overlong_share", "truncated", "unparsed",
    "undecided", "timeouts", "crashes", "second_opinions", "second_opinion_disagreements", "second_opinion_failures",
    "kl", "kl_coefficient", "score_std"]);
  const PHASES = ["generate", "reward", "prepare", "update", "sync"];
  const named = (...pairs) => () => pairs;
  const matching = (pattern, label = (name) => name) => (names) =>
    names.filter((name) => pattern.test(name)).map((name) => [name, label(name)]);

  // title; unit: of the vertical axis, "share" in percent; series: from the metrics' names to [metric, label] pairs;
  // zero: the axis begins there; rare: series that are zero throughout are left out.
  const LINES = [
    { title: "Accuracy", unit: "share", series: (names) => [
      ["reward/accuracy", "training (sampled)"], ["rewards/accuracies", "pairs right"],
      ...matching(/^eval\/.+\/accuracy$/, (name) => `held out: ${name.slice(5, -9)}`)(names)] },
    { title: "Reward (mean score)", series: (names) => [["reward/score", "score"], ["reward_model/score", "reward model"],
      ...matching(/^eval\/.+\/score$/, (name) => `held out: ${name.slice(5, -6)}`)(names)] },
    { title: "Components of the reward", series: (names) => names
      .filter((name) => name.startsWith("reward/") && !NO_COMPONENT.has(name.slice(7)) && !/equal|alike|share|std/.test(name))
      .map((name) => [name, name.slice(7)]) },
    { title: "Training loss", series: named(["sft/loss", "SFT"], ["preference/loss", "preference"],
      ["reward_model/loss", "reward model"], ["policy/loss", "policy"], ["ptx/loss", "language modelling"]) },
    { title: "Implicit rewards", series: named(["rewards/chosen", "chosen"], ["rewards/rejected", "rejected"],
      ["rewards/margins", "margin"]) },
    { title: "Response length", unit: "tokens", zero: true, series: named(["response/length_mean", "mean"],
      ["response/right_length_mean", "right"], ["response/wrong_length_mean", "wrong"]) },
    { title: "Cut off at the token limit", unit: "share", series: named(["response/truncated_share", "truncated"]) },
    { title: "Policy entropy", unit: "nats per token", zero: true, series: named(["policy/entropy", "entropy"]) },
    { title: "KL divergence", unit: "nats", series: named(["policy/kl", "to the reference"], ["policy/approx_kl", "of the step"],
      ["reward/kl", "in the reward"], ["preference/kl", "to the reference"]) },
    { title: "Gradient norm", zero: true, series: named(["train/grad_norm", "policy"], ["critic/grad_norm", "critic"]) },
    { title: "Clipped tokens", unit: "share", series: named(["policy/clip_fraction_high", "at the high bound"],
      ["policy/clip_fraction_low", "at the low bound"], ["value/clip_fraction", "values"]) },
    { title: "Groups with equal rewards", unit: "share", series: matching(/^(groups|reward)\/.*equal/) },
    { title: "Deviation of rewards within groups", series: matching(/^(groups|reward)\/.*(deviation|std)/) },
    { title: "Train/rollout gap of logprobs", unit: "nats", log: true, series: named(["policy/rollout_gap_mean", "mean"],
      ["policy/rollout_gap_max", "max"]) },
    { title: "Weight sync check", unit: "nats", log: true, series: named(["sync/check_gap", "gap"], ["sync/check_limit", "limit"]) },
    { title: "Verifier failures", zero: true, rare: true, series: named(["reward/unparsed", "unparsed"], ["reward/undecided", "undecided"],
      ["reward/timeouts", "timeouts"], ["reward/crashes", "crashes"]) },
    { title: "Critic", series: named(["value/explained_variance", "explained variance"], ["value/loss", "loss"]) },
    { title: "Learning rate", tiny: true, series: named(["train/lr", "policy"], ["critic/lr", "critic"]) },
    { title: "Speed", unit: "tokens per second", zero: true, series: matching(/^speed\/.*_tokens_per_second$/,
      (name) => name.slice(6, -18)) },
  ];

  const shown = (run, name, panel) => name in run.history && (!panel.rare || run.history[name][1].some((value) => value !== 0));

  function linePanels(runs) {
    return LINES.map((panel) => {
      const present = runs.map((run) => panel.series(Object.keys(run.history)).filter(([name]) => shown(run, name, panel)));
      const labels = [...new Set(present.flat().map(([, label]) => label))]; // the same label has the same dash in all runs
      const series = present.flatMap((pairs, number) =>
        pairs.map(([name, label]) => oneLine(runs, number, name, label, labels.indexOf(label))));
      return { ...panel, kind: "lines", series };
    }).filter((panel) => panel.series.length > 0);
  }

  // One run: a colour per series. Several: a colour per run, as in the page's head, and a dash per series.
  function oneLine(runs, number, name, label, place) {
    const [steps, numbers] = runs[number].history[name];
    const several = runs.length > 1;
    const interval = name.startsWith("eval/") && name.endsWith("/accuracy") ? intervalOf(runs[number], name) : null;
    return { name, steps, numbers, interval, points: name.startsWith("eval/"),
      label, title: several ? `${runs[number].name}: ${label}` : label, several,
      colour: PALETTE[(several ? number : place) % PALETTE.length],
      dash: several ? DASHES[place % DASHES.length] : "solid" };
  }

  function intervalOf(run, name) {
    const low = run.history[name.replace(/accuracy$/, "ci_low")];
    const high = run.history[name.replace(/accuracy$/, "ci_high")];
    return low && high ? { low: low[1], high: high[1] } : null;
  }

  // Stacks cannot be overlaid: one panel per run.
  function stackPanels(runs) {
    return runs.flatMap((run) => {
      const title = (text) => (runs.length > 1 ? `${text}: ${run.name}` : text);
      return [
        { title: title("Groups per step"), kind: "stack", series: layers(run, [["groups/kept", "kept"],
          ["groups/dropped_right", "dropped: all right"], ["groups/dropped_wrong", "dropped: all wrong"],
          ["groups/dropped_alike", "dropped: equal scores"]], ["#0072B2", "#56B4E9", "#E69F00", "#D55E00"]) },
        { title: title("Seconds per step, by phase"), kind: "stack", unit: "seconds", series: timeline(run) },
        { title: title("Memory by phase"), kind: "lines", unit: "GiB", zero: true, series: memory(run) },
      ].filter((panel) => panel.series.length > 0);
    });
  }

  function layers(run, pairs, colours) {
    return pairs.map(([name, label], place) => ({ name, label, colour: colours[place] }))
      .filter(({ name }) => name in run.history && run.history[name][1].some((value) => value !== 0))
      .map((layer) => ({ ...layer, steps: run.history[layer.name][0], numbers: run.history[layer.name][1] }));
  }

  function timeline(run) {
    const colours = ["#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#999999"];
    const phases = [...PHASES, "evaluate"];
    const found = layers(run, phases.map((phase) => [`time/${phase}`, phase]), colours);
    if (!("time/step" in run.history) || found.length === 0) return found;
    const [steps, whole] = run.history["time/step"];
    const counted = PHASES.filter((phase) => `time/${phase}` in run.history)
      .map((phase) => new Map(run.history[`time/${phase}`][0].map((step, i) => [step, run.history[`time/${phase}`][1][i]])));
    const rest = steps.map((step, i) => Math.max(0, whole[i] - counted.reduce((sum, by) => sum + (by.get(step) ?? 0), 0)));
    if (rest.some((seconds, i) => seconds > 0.02 * whole[i])) {
      found.push({ name: "time/other", label: "other", colour: colours[6], steps, numbers: rest });
    }
    return found;
  }

  function memory(run) {
    const names = Object.keys(run.history).filter((name) => name.startsWith("memory/")).sort();
    return names.map((name, place) => ({ name, label: name.slice(7).replace(/_gib$/, "").replaceAll("_", " "),
      steps: run.history[name][0], numbers: run.history[name][1], colour: PALETTE[place % PALETTE.length],
      dash: DASHES[Math.floor(place / PALETTE.length) % DASHES.length] }));
  }

  // The panel of any metric, for those that no other panel has.
  function metricPanel(runs, name) {
    const having = runs.map((run, number) => [run, number]).filter(([run]) => name in run.history);
    return { title: name, kind: "lines", series: having.map(([, number]) => oneLine(runs, number, name, name, 0)) };
  }

  function all(runs) {
    const lines = linePanels(runs);
    const stacks = stackPanels(runs);
    const drawn = new Set([...lines, ...stacks].flatMap((panel) => panel.series.map((line) => line.name)));
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.history)))].sort();
    return { panels: [...lines, ...stacks], others: names.filter((name) => !drawn.has(name)), names };
  }

  return { all, metricPanel };
})();
