"""Difficulty of problems for a model: the share of its answers that are right, and selection and order by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reasoner_rl.evaluation.estimators import wilson_interval
from reasoner_rl.types import ScoredGroup

FEW_SAMPLES = 10  # up to which a histogram has a line per possible pass rate

Order = Literal["none", "easy-first"]


@dataclass(frozen=True, slots=True)
class PassRate:
    """How many of a problem's samples are right."""

    passed: int
    samples: int

    @classmethod
    def of_group(cls, group: ScoredGroup) -> PassRate | None:
        """An answer passes if its accuracy is 1. None if the accuracy of any answer is not known."""
        accuracies = [reward.accuracy for reward in group.rewards if reward.accuracy is not None]
        if len(accuracies) < len(group.rewards):
            return None
        return cls(sum(accuracy >= 1 for accuracy in accuracies), len(accuracies))

    @property
    def rate(self) -> float:
        """In [0, 1]."""
        return self.passed / self.samples

    def columns(self) -> dict[str, float | int]:
        """The columns of a measured problem: the rate, the samples, and the ends of the 95 % interval (Wilson)."""
        low, high = wilson_interval(self.rate, self.samples)
        return {
            "pass_rate": self.rate,
            "pass_rate_samples": self.samples,
            "pass_rate_low": low,
            "pass_rate_high": high,
        }


def chosen(rates: Sequence[PassRate], min_pass: float, max_pass: float, order: Order) -> list[int]:
    """The places of the problems whose rate is in [min_pass, max_pass], in the given order.

    easy-first: by falling rate; equal rates stay in the order in which they came.
    """
    places = [place for place, rate in enumerate(rates) if min_pass <= rate.rate <= max_pass]
    return sorted(places, key=lambda place: -rates[place].rate) if order == "easy-first" else places


def histogram(rates: Sequence[PassRate]) -> list[tuple[str, int]]:
    """Label -> number of problems, from none right to all right; ``rates`` have the same number of samples.

    One bin per possible rate for up to `FEW_SAMPLES` samples; for more, both ends apart and ten bins between them.
    """
    samples = rates[0].samples
    if samples <= FEW_SAMPLES:
        bins = {f"{right}/{samples}": 0 for right in range(samples + 1)}
        for rate in rates:
            bins[f"{rate.passed}/{samples}"] += 1
        return list(bins.items())
    between = [f"{low}-{low + 10} %" for low in range(0, 100, 10)]
    bins = dict.fromkeys(["none", *between, "all"], 0)
    for rate in rates:
        inside = between[10 * rate.passed // samples] if rate.passed < samples else "all"
        bins[inside if rate.passed else "none"] += 1
    return list(bins.items())
