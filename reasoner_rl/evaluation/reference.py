"""Does a run learn as runs of the same recipe did before? Bands around the curves of several seeds.

At each step the band of a metric reaches from the lowest to the highest of the seeds' values, and beyond both, so that
it has `REACH` standard deviations to either side of its middle. The deviation is estimated as on a control chart: the
mean distance of lowest and highest at this step and its neighbours, over the distance that so many draws from a normal
distribution of deviation 1 have on average. One point outside can be chance. A curve has left the band where
`PATIENCE` points in a row are outside on the same side, and is said to have left at the first of them. How often a
further seed leaves it is simulated in tests/evaluation/test_reference_bands.py; docs/results.md has what was seen of
the shipped references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean

from scipy.integrate import quad
from scipy.special import ndtr

REACH = 3.5
PATIENCE = 3
NEIGHBOURS = 3  # points on each side
FEWEST_SEEDS = 3


@cache
def expected_range(draws: int) -> float:
    """Mean distance of the lowest and the highest of so many draws from a standard normal distribution."""
    return float(quad(lambda x: 1 - ndtr(x) ** draws - ndtr(-x) ** draws, -10, 10)[0])


@dataclass(frozen=True, slots=True)
class Curves:
    """One metric of several seeds, at the steps that all of them have."""

    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]  # [seeds][steps]

    def band(self, step: int) -> tuple[float, float] | None:
        """The lowest and the highest value that is expected at a step; None where the seeds have none."""
        if step not in self.steps:
            return None
        place = self.steps.index(step)
        here = [seed[place] for seed in self.values]
        near = range(max(0, place - NEIGHBOURS), min(len(self.steps), place + NEIGHBOURS + 1))
        columns = [[seed[other] for seed in self.values] for other in near]
        distance = fmean(max(column) - min(column) for column in columns)
        margin = (REACH / expected_range(len(here)) - 0.5) * distance
        return min(here) - margin, max(here) + margin


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a curve left its band."""

    metric: str
    step: int
    value: float
    band: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.band
        side = "below" if self.value < low else "above"
        return (
            f"{self.metric} left the reference's band at step {self.step}: {self.value:.4g} is {side} "
            f"{low:.4g} to {high:.4g}"
        )


@dataclass(slots=True)
class Watch:
    """Follows one run along the curves of a reference, step by step."""

    curves: Mapping[str, Curves]
    departed: dict[str, Departure] = field(default_factory=dict)  # by metric, the first
    compared: dict[str, int] = field(default_factory=dict)  # by metric: points that a band was known for
    _outside: dict[str, list[Departure]] = field(default_factory=dict)  # the points in a row that are, so far

    def see(self, step: int, values: Mapping[str, float]) -> list[Departure]:
        """Take the metrics of a step; returns those that are found to have left their band now."""
        found = []
        for metric, value in values.items():
            band = self.curves[metric].band(step) if metric in self.curves else None
            if band is None:
                continue
            self.compared[metric] = self.compared.get(metric, 0) + 1
            row = self._outside.setdefault(metric, [])
            if band[0] <= value <= band[1]:
                row.clear()
                continue
            point = Departure(metric, step, value, band)
            if row and (row[-1].value > row[-1].band[1]) != (value > band[1]):
                row.clear()
            row.append(point)
            if len(row) == min(PATIENCE, len(self.curves[metric].steps)) and metric not in self.departed:
                self.departed[metric] = row[0]
                found.append(row[0])
        return found


def curves_of(runs: Sequence[Mapping[str, Mapping[int, float]]]) -> dict[str, Curves]:
    """Curves of the metrics that all runs have, from metric -> step -> value of each.

    Raises ValueError for fewer than `FEWEST_SEEDS` runs, and where they have no metric and step in common.
    """
    if len(runs) < FEWEST_SEEDS:
        raise ValueError(f"a reference needs at least {FEWEST_SEEDS} runs; there are {len(runs)}")
    curves = {}
    for metric in runs[0]:
        if all(metric in run for run in runs):
            steps = sorted(set.intersection(*(set(run[metric]) for run in runs)))
            if steps:
                curves[metric] = Curves(
                    tuple(steps), tuple(tuple(run[metric][step] for step in steps) for run in runs)
                )
    if not curves:
        raise ValueError("the runs have no metric and step in common")
    return curves
