"""Metrics that carry their own reduction, so that no step ever averages averages.

A stage returns ``dict[str, Metric]``. Micro-batches, ranks and engines are combined with `merge`; `values` turns
the result into plain numbers for the sinks. A mean is a sum and a count until that last moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Reduction = Literal["mean", "sum", "max"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number on its way to a reduction.

    ``total`` is the sum (mean, sum) or the extreme (max); ``count`` is the weight of a mean and is
    ignored by the other reductions.
    """

    total: float
    count: float
    reduction: Reduction

    def value(self) -> float:
        """Return the reduced number; a mean over nothing is NaN."""
        if self.reduction == "mean":
            return self.total / self.count if self.count else math.nan
        return self.total

    def __add__(self, other: Metric) -> Metric:
        if self.reduction != other.reduction:
            raise ValueError(f"cannot merge a {self.reduction} with a {other.reduction}")
        total = max(self.total, other.total) if self.reduction == "max" else self.total + other.total
        return Metric(total, self.count + other.count, self.reduction)


Metrics = dict[str, Metric]


def mean(total: float, count: float = 1.0) -> Metric:
    """A mean, given as a sum over ``count`` things."""
    return Metric(float(total), float(count), "mean")


def mean_of(numbers: Iterable[float]) -> Metric:
    """The mean of some numbers."""
    listed = [float(number) for number in numbers]
    return Metric(math.fsum(listed), float(len(listed)), "mean")


def total(amount: float) -> Metric:
    """A sum over micro-batches, ranks and phases."""
    return Metric(float(amount), 1.0, "sum")


def maximum(number: float) -> Metric:
    """The largest seen."""
    return Metric(float(number), 1.0, "max")


def merge(parts: Iterable[Mapping[str, Metric]]) -> Metrics:
    """Combine the metrics of several micro-batches, updates or ranks, key by key."""
    merged: Metrics = {}
    for part in parts:
        for name, metric in part.items():
            merged[name] = merged[name] + metric if name in merged else metric
    return merged


def values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Reduce every metric to its number; means over nothing are left out."""
    numbers = {name: metric.value() for name, metric in metrics.items()}
    return {name: number for name, number in numbers.items() if not math.isnan(number)}
