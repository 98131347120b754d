"""Tables and a picture of a comparison of training methods: see comparison.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from comparison import Outcome, Point
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from reasoner_rl.evaluation.paired import Difference, over_problems, over_seeds, paired
from reasoner_rl.observability.curves import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from reasoner_rl.observability.summary import atomic_path, atomic_writer, write_json

PALETTE = (SKY, ORANGE, GREEN, PURPLE, VERMILION, BLUE)
DASHES = ("-", "--", ":")  # after six methods the colours come again
Results = Mapping[
    str, Sequence[Outcome]
]  # by method, in order; every method has the same seeds in the same order


@dataclass(frozen=True, slots=True)
class Contrast:
    """How one method differs from another that was run with the same seeds and held-out problems."""

    before: str
    after: str
    seeds: Difference  # of accuracy, by Student's t over seeds
    problems: Difference  # of accuracy, clustered by problem
    tokens: Difference  # of generated tokens, over seeds


def contrast(results: Results, before: str, after: str) -> Contrast:
    """Compare two methods. Raises ValueError if their held-out problems are not the same."""
    pairs = list(zip(results[before], results[after], strict=True))
    by_seed = [paired(old.after, new.after) for old, new in pairs]
    return Contrast(
        before,
        after,
        over_seeds([fmean(differences.values()) for differences in by_seed]),
        over_problems(by_seed),
        over_seeds([new.end.tokens - old.end.tokens for old, new in pairs]),
    )


def gain(results: Results, method: str) -> Contrast:
    """Compare a method's end with its start."""
    by_seed = [paired(outcome.before, outcome.after) for outcome in results[method]]
    return Contrast(
        "start",
        method,
        over_seeds([fmean(differences.values()) for differences in by_seed]),
        over_problems(by_seed),
        over_seeds([outcome.end.tokens for outcome in results[method]]),
    )


def markdown_table(results: Results, start: str = "warm start") -> str:
    """One line per method: means over its seeds, and the accuracy of each seed."""
    lines = [
        "| | held-out accuracy | of each seed | response tokens | cut off | generated tokens | used | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    first = [outcome.curve[0].accuracy for outcome in next(iter(results.values()))]
    lines.append(f"| {start} | {fmean(first):.1%} | {_list(first)} | | | | | |")
    for name, outcomes in results.items():
        last = [outcome.end.accuracy for outcome in outcomes]
        used = [outcome.used_share for outcome in outcomes if outcome.used_share is not None]
        cells = [
            name,
            f"{fmean(last):.1%}",
            _list(last),
            f"{fmean(outcome.response_tokens for outcome in outcomes):.1f}",
            f"{fmean(outcome.truncated_share for outcome in outcomes):.1%}",
            f"{fmean(outcome.end.tokens for outcome in outcomes):,.0f}",
            f"{fmean(used):.0%}" if used else "",
            f"{fmean(outcome.end.seconds for outcome in outcomes):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def contrast_table(contrasts: Sequence[Contrast]) -> str:
    """One line per contrast: accuracy in points, and tokens, with 95 % intervals."""
    lines = [
        "| | against | accuracy, points | 95 % over seeds | 95 % over problems | generated tokens | 95 % over seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for each in contrasts:
        cells = [
            each.after,
            each.before,
            f"{100 * each.seeds.mean:+.1f}",
            _interval(each.seeds, 100, "+.1f"),
            _interval(each.problems, 100, "+.1f"),
            f"{each.tokens.mean:+,.0f}",
            _interval(each.tokens, 1, "+,.0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _list(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


def _interval(difference: Difference, factor: float, form: str) -> str:
    if difference.low is None or difference.high is None:
        return "unknown"
    return f"{format(factor * difference.low, form)} to {format(factor * difference.high, form)}"


def plot_curves(results: Results, out: Path) -> None:
    """Held-out accuracy over generated tokens and over seconds.

    One line per method through the means of its seeds at each evaluation, in a band from the lowest to the highest.
    """
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, results, "generated tokens", lambda point: point.tokens)
    _panel(right, results, "seconds", lambda point: point.seconds)
    left.set_title("Held-out accuracy", fontsize=12, fontweight="bold", color=INK, loc="left")
    left.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    left.set_ylim(bottom=0)
    left.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens / 1000:,.0f}k"))
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png", facecolor="white")


def _panel(axes: Axes, results: Results, label: str, cost: Any) -> None:
    for index, (name, outcomes) in enumerate(results.items()):
        evaluations: list[tuple[Point, ...]] = list(zip(*(o.curve for o in outcomes), strict=False))
        across = [fmean(cost(point) for point in points) for points in evaluations]
        accuracies = [[point.accuracy for point in points] for points in evaluations]
        colour, dash = PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)]
        axes.plot(
            across,
            [fmean(numbers) for numbers in accuracies],
            dash,
            color=colour,
            marker="o",
            markersize=4,
            label=name,
        )
        low, high = [min(numbers) for numbers in accuracies], [max(numbers) for numbers in accuracies]
        axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel(label, color=INK)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.8)


def report(
    results: Results,
    contrasts: Sequence[Contrast],
    out: Path,
    name: str,
    about: Mapping[str, Any],
    remark: str = "",
) -> None:
    """Write the report, and print its text and where it is; see `write_report`."""
    print(f"\n{write_report(results, contrasts, out, name, about, remark)}")
    seeds = ", ".join(str(outcome.seed) for outcome in next(iter(results.values())))
    print(f"seeds {seeds}: {out}/{name}.json, {name}.md, {name}.png")


def write_report(
    results: Results,
    contrasts: Sequence[Contrast],
    out: Path,
    name: str,
    about: Mapping[str, Any],
    remark: str = "",
) -> str:
    """Write OUT/<name>.json, .md and .png, and return the text of the second.

    about: is added to the JSON. remark: follows the tables.
    """
    runs = {
        method: [
            {
                "seed": outcome.seed,
                "curve": [asdict(point) for point in outcome.curve],
                "response_tokens": outcome.response_tokens,
                "truncated_share": outcome.truncated_share,
                "used_share": outcome.used_share,
            }
            for outcome in outcomes
        ]
        for method, outcomes in results.items()
    }
    write_json(
        out / f"{name}.json", {**about, "runs": runs, "contrasts": [asdict(each) for each in contrasts]}
    )
    text = f"{markdown_table(results)}\n{contrast_table(contrasts)}"
    if remark:
        text += f"\n{remark}\n"
    with atomic_writer(out / f"{name}.md") as file:
        file.write(text)
    plot_curves(results, out / f"{name}.png")
    return text
