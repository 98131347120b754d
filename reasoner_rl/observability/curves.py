"""Learning curves of a run as one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from reasoner_rl.errors import DataError
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import atomic_path
from reasoner_rl.types import REWARD_METRICS

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
EVALUATION_COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
INK, GRID = "#333333", "#E3E3E3"
RUN_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
KL_METRICS = (
    ("policy/kl", "to the reference", BLUE),
    ("reward/kl", "to the reference, in the reward", GREEN),
    ("policy/approx_kl", "to the policy before the update", SKY),
    ("teacher/kl", "to the teacher", PURPLE),
    ("preference/kl", "to the reference, of pairs", ORANGE),
)
# What several runs are compared by, besides accuracy on held-out sets.
COMPARED = {
    "reward/accuracy": "Accuracy, training (sampled)",
    "reward/score": "Reward (mean score)",
    "sft/loss": "Training loss",
    "preference/loss": "Training loss",
    "reward_model/loss": "Training loss",
    "response/length_mean": "Response length (mean tokens)",
    "response/truncated_share": "Responses cut off at the limit",
    "policy/entropy": "Policy entropy (nats per token)",
    "policy/kl": "KL to the reference (nats per token)",
    "train/grad_norm": "Gradient norm (before clipping)",
    "groups/equal_share": "Groups with equal rewards",
}
SHARES = ("accuracy", "_share")  # endings of metrics between 0 and 1
LOSSES = ("sft/loss", "preference/loss", "reward_model/loss")  # of algorithms that learn from examples
PANEL_INCHES = (4.0, 3.1)
DOTS_PER_INCH = 160
SEARCHED_POINTS = 2000  # most points of a panel among which matplotlib searches a free place for the legend


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over the steps that have it."""

    steps: list[int]
    numbers: list[float]


History = dict[str, Series]
Panel = Callable[[Axes], None]


def read_history(metrics_jsonl: Path) -> History:
    """Read metrics.jsonl by metric name; of two numbers for one step the later counts."""
    by_name: dict[str, dict[int, float]] = {}
    for row in read_jsonl(metrics_jsonl):
        for name, number in row.items():
            if name != "step" and isinstance(number, (int, float)):
                by_name.setdefault(name, {})[row["step"]] = number
    return {
        name: Series(sorted(points), [points[step] for step in sorted(points)])
        for name, points in by_name.items()
    }


def plot_curves(metrics_jsonl: Path | Mapping[str, Path], out: Path) -> None:
    """Draw the learning curves of a run into the PNG file ``out``, or of several runs, by name, over each other.

    One panel per question, at most three in a row, only those that a run has metrics for; several runs are compared by
    one line each per panel. Lines over 20 steps long are drawn smoothed, over a pale line of the raw numbers.

    Raises:
        DataError: if a file is broken, or has none of the metrics that are drawn.
    """
    if isinstance(metrics_jsonl, Path):
        history = read_history(metrics_jsonl)
        panels = [_of(panel, history) for has_data, panel in PANELS if has_data(history)]
    else:
        panels = _panels_of_runs({name: read_history(path) for name, path in metrics_jsonl.items()})
    if not panels:
        named = (
            metrics_jsonl if isinstance(metrics_jsonl, Path) else ", ".join(map(str, metrics_jsonl.values()))
        )
        raise DataError(f"{named}: none of the metrics that curves are drawn of; was any step logged?")
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    FigureCanvasAgg(figure)
    for position, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, position)
        _style(axes)
        panel(axes)
        if position > len(panels) - columns:
            axes.set_xlabel("step", color=INK)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png", facecolor="white")


def _of(panel: Callable[[Axes, History], None], history: History) -> Panel:
    return lambda axes: panel(axes, history)


def _panels_of_runs(runs: Mapping[str, History]) -> list[Panel]:
    """One panel per metric that a run has."""
    evaluations = sorted({name for history in runs.values() for name in _evaluations(history)})
    compared = {name: f"Accuracy, held out: {_dataset(name)}" for name in evaluations} | COMPARED
    present = [name for name in compared if any(name in history for history in runs.values())]
    return [partial(_runs, runs=runs, name=name, title=compared[name]) for name in present]


def _runs(axes: Axes, runs: Mapping[str, History], name: str, title: str) -> None:
    _title(axes, title)
    for index, (run, history) in enumerate(runs.items()):
        if name in history:
            _line(axes, history[name], RUN_COLOURS[index % len(RUN_COLOURS)], run)
    if name.endswith(SHARES):
        _percent(axes)
    _legend(axes)


def _accuracy(axes: Axes, history: History) -> None:
    _title(axes, "Accuracy")
    if "reward/accuracy" in history:
        _line(axes, history["reward/accuracy"], SKY, "training (sampled)")
    for index, name in enumerate(_evaluations(history)):
        series = history[name]
        colour = EVALUATION_COLOURS[index % len(EVALUATION_COLOURS)]
        label = f"held out: {_dataset(name)}"
        axes.plot(series.steps, series.numbers, color=colour, marker="o", markersize=5, label=label)
    _percent(axes)
    _legend(axes)


def _reward(axes: Axes, history: History) -> None:
    _title(axes, "Reward (mean score)")
    components = _components(history)
    if len(components) > 1:
        for index, name in enumerate(components):
            colour = EVALUATION_COLOURS[(index + 1) % len(EVALUATION_COLOURS)]
            _line(axes, history[name], colour, name.removeprefix("reward/"))
    _line(axes, history["reward/score"], BLUE, "score" if len(components) > 1 else None)
    if len(components) > 1:
        _legend(axes)


def _loss(axes: Axes, history: History) -> None:
    _title(axes, "Training loss")
    _line(axes, history[next(name for name in LOSSES if name in history)], BLUE)


def _implicit_rewards(axes: Axes, history: History) -> None:
    _title(axes, "Scores of pairs" if "reward_model/loss" in history else "Implicit rewards")
    for name, colour in (("chosen", BLUE), ("rejected", VERMILION)):
        if f"rewards/{name}" in history:  # KTO's steps may have had answers of one kind alone
            _line(axes, history[f"rewards/{name}"], colour, name)
    _legend(axes)


def _model_score(axes: Axes, history: History) -> None:
    _title(axes, "Scores of the reward model")
    _line(axes, history["reward_model/score"], BLUE, "mean")
    if "reward_model/deviation" in history:  # the mean of comparisons among all never changes
        _line(axes, history["reward_model/deviation"], VERMILION, "standard deviation")
    _legend(axes)


def _length(axes: Axes, history: History) -> None:
    _title(axes, "Response length")
    _line(axes, history["response/length_mean"], BLUE)
    axes.set_ylim(bottom=0)
    _whole_numbers(axes)
    axes.set_ylabel("mean tokens", color=BLUE)
    if "response/truncated_share" in history:
        shares = axes.twinx()
        _style(shares)
        shares.grid(False)
        _line(shares, history["response/truncated_share"], VERMILION)
        _percent(shares)
        shares.set_ylim(0, max(0.05, 1.6 * max(history["response/truncated_share"].numbers)))
        shares.set_ylabel("cut off at the limit", color=VERMILION)


def _entropy(axes: Axes, history: History) -> None:
    _title(axes, "Policy entropy (nats per token)")
    _line(axes, history["policy/entropy"], BLUE)
    axes.set_ylim(bottom=0)


def _kl(axes: Axes, history: History) -> None:
    _title(axes, "KL divergence (nats per token)")
    for name, label, colour in KL_METRICS:
        if name in history:
            _line(axes, history[name], colour, label)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))  # estimates of single steps may be below
    _legend(axes)


def _gradient_norm(axes: Axes, history: History) -> None:
    _title(axes, "Gradient norm (before clipping)")
    _line(axes, history["train/grad_norm"], BLUE)
    axes.set_ylim(bottom=0)


def _equal_groups(axes: Axes, history: History) -> None:
    _title(axes, "Groups with equal rewards")
    _line(axes, history["groups/equal_share"], BLUE)
    _percent(axes)
    axes.set_ylim(0, 1.05)


def _clip(axes: Axes, history: History) -> None:
    _title(axes, "Clipped tokens")
    for side, colour in (("low", VERMILION), ("high", BLUE)):
        if f"policy/clip_fraction_{side}" in history:
            _line(axes, history[f"policy/clip_fraction_{side}"], colour, f"at the {side} bound")
    _percent(axes)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
    _legend(axes)


def _groups(axes: Axes, history: History) -> None:
    _title(axes, "Groups per step")
    steps = history["groups/kept"].steps
    layers = [
        ("groups/kept", "kept", BLUE),
        ("groups/dropped_right", "dropped: all right", SKY),
        ("groups/dropped_wrong", "dropped: all wrong", ORANGE),
        ("groups/dropped_alike", "dropped: equal scores", VERMILION),
    ]
    present = [layer for layer in layers if layer[0] == "groups/kept" or _ever(history, layer[0])]
    heights = [_at(history[name], steps) for name, _, _ in present]
    colours = [colour for _, _, colour in present]
    axes.stackplot(steps, heights, labels=[label for _, label, _ in present], colors=colours, linewidth=0)
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])  # room for the legend
    _whole_numbers(axes)
    _legend(axes, reverse=True)


def _ever(history: History, name: str) -> bool:
    """Whether a metric was ever above zero."""
    return name in history and any(history[name].numbers)


def _has(*names: str) -> Callable[[History], bool]:
    return lambda history: any(name in history for name in names)


def _evaluations(history: History) -> list[str]:
    return sorted(name for name in history if name.startswith("eval/") and name.endswith("/accuracy"))


def _dataset(evaluation: str) -> str:
    return evaluation.removeprefix("eval/").removesuffix("/accuracy")


def _components(history: History) -> list[str]:
    """Metrics of the parts that scores are made of."""
    others = {f"reward/{name}" for name in (*REWARD_METRICS, "kl", "kl_coefficient")}
    return [
        name for name in history if name.startswith("reward/") and name not in others and _ever(history, name)
    ]


PANELS: Sequence[tuple[Callable[[History], bool], Callable[[Axes, History], None]]] = (
    (_has(*LOSSES), _loss),
    (_has("rewards/chosen", "rewards/rejected"), _implicit_rewards),
    (lambda history: "reward/accuracy" in history or bool(_evaluations(history)), _accuracy),
    (_has("reward/score"), _reward),
    (_has("reward_model/score"), _model_score),
    (_has("response/length_mean"), _length),
    (_has("policy/entropy"), _entropy),
    (_has("policy/clip_fraction_low", "policy/clip_fraction_high"), _clip),
    (_has(*(name for name, _, _ in KL_METRICS)), _kl),
    (_has("train/grad_norm"), _gradient_norm),
    (_has("groups/kept"), _groups),
    (_has("groups/equal_share"), _equal_groups),
)


def _at(series: Series, steps: Sequence[int]) -> list[float]:
    points = dict(zip(series.steps, series.numbers, strict=True))
    return [points.get(step, 0.0) for step in steps]


def smooth(numbers: Sequence[float]) -> list[float]:
    """Centred moving average over a fifteenth of the points; at the ends, over those of them that exist."""
    half = max(1, len(numbers) // 30)
    return [fmean(numbers[max(0, index - half) : index + half + 1]) for index in range(len(numbers))]


def _line(axes: Axes, series: Series, colour: str, label: str | None = None) -> None:
    if len(series.steps) <= 20:
        axes.plot(series.steps, series.numbers, color=colour, marker="o", markersize=3, label=label)
        return
    axes.plot(series.steps, series.numbers, color=colour, alpha=0.25, linewidth=1)
    axes.plot(series.steps, smooth(series.numbers), color=colour, linewidth=2, label=label)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=12, fontweight="bold", color=INK, loc="left")


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.set_ylim(bottom=0)


def _whole_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))


def _legend(axes: Axes, *, reverse: bool = False) -> None:
    points = sum(np.size(line.get_xdata()) for line in axes.lines)
    place: Literal["best", "upper right"] = "best" if points <= SEARCHED_POINTS else "upper right"
    axes.legend(loc=place, framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=INK, reverse=reverse)
