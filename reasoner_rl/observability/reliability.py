"""Reliability diagrams: observed against stated frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class ReliabilityCurve(NamedTuple):
    """What one curve shows, by bin of the stated probability that has any cases."""

    stated: Sequence[float]  # mean probability
    observed: Sequence[float]  # share of cases that came true
    shares: Sequence[float]  # of all cases


def plot_reliability(curves: Mapping[str, ReliabilityCurve], file: Path) -> None:
    """Draw a curve for each label, with the share of cases in each bin below."""
    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for label, curve in curves.items():
        upper.plot(curve.stated, curve.observed, marker="o", label=label)
        lower.plot(curve.stated, curve.shares, marker="o")
    upper.set(ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.set(xlabel="stated probability that an answer is the better one", ylabel="share of cases")
    figure.savefig(file, dpi=120)
