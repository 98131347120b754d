"""Tables and figures of simulated cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulation.cells import CLUSTERS, SCHEDULES
from simulation.lengths import names

Cells = dict[tuple[str, str, str], dict[str, Any]]  # by lengths, cluster, schedule


def read(folder: Path) -> Cells:
    """The cells of a folder."""
    found: Cells = {}
    for path in sorted(folder.glob("*.*.*.json")):
        cell = json.loads(path.read_text())
        found[cell["lengths"], cell["cluster"], cell["schedule"]] = cell
    return found


def table(cells: Cells) -> str:
    """Markdown: seconds of a step, how many times as fast as the barrier, and the idle share."""
    lines = [
        "| lengths | cluster | schedule | step, s | x barrier | idle | GPU time in training |",
        "|---|---|---|---|---|---|---|",
    ]
    for lengths in names():
        for cluster in CLUSTERS:
            barrier = cells.get((lengths, cluster, "barrier"))
            for schedule, how in SCHEDULES.items():
                cell = cells.get((lengths, cluster, schedule))
                if cell is None or barrier is None:
                    continue
                times = barrier["step_seconds"] / cell["step_seconds"]
                lines.append(
                    f"| {lengths} | {cluster} | {how.label} | {cell['step_seconds']:.0f} | {times:.2f} "
                    f"| {cell['idle_share']:.0%} | {cell['training_share']:.0%} |"
                )
    return "\n".join(lines)


def draw(cells: Cells, path: Path) -> None:
    """How many times as fast as the barrier every schedule is, a panel per cluster, and its idle share."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(CLUSTERS), sharex=True, sharey="row")
    width = 0.8 / len(names())
    for column, cluster in enumerate(CLUSTERS):
        for place, lengths in enumerate(names()):
            barrier = cells.get((lengths, cluster, "barrier"))
            for number, schedule in enumerate(SCHEDULES):
                cell = cells.get((lengths, cluster, schedule))
                if cell is None or barrier is None:
                    continue
                at, colour = number + (place - 1) * width, f"C{place}"
                axes[0, column].bar(at, barrier["step_seconds"] / cell["step_seconds"], width, color=colour)
                axes[1, column].bar(at, 100 * cell["idle_share"], width, color=colour)
        axes[0, column].set_title(cluster)
        axes[1, column].set_xticks(range(len(SCHEDULES)), SCHEDULES, rotation=45, ha="right")
    axes[0, 0].set_ylabel("times as fast as the barrier")
    axes[1, 0].set_ylabel("GPUs idle, %")
    for place, lengths in enumerate(names()):
        axes[0, 0].bar(0, 0, color=f"C{place}", label=lengths)
    axes[0, 0].legend(title="response lengths")
    figure.savefig(path, dpi=110)
