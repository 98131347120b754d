"""A 95 % interval of avg@k that holds for few problems, and near 0 and 1.

Problems are drawn from a population, and the k samples of a problem are correlated. The intraclass correlation is 0 if
all problems are equally hard, 1 if each is solved always or never. With it, n problems of k samples are worth

    n_effective = n k / (1 + (k - 1) correlation)

independent samples (Kish's design effect). A mean m is in the interval unless as few, or as many, right samples as were
seen would have a probability below 2.5 % under it, by the binomial distribution of n_effective samples (Clopper and
Pearson's interval with an effective sample size: Korn and Graubard, Survey Methodology 24 (1998) 193-201). As there,
n_effective is multiplied by (z / t)^2, with Student's t of n - 1 degrees of freedom, because the correlation is
estimated. Two things differ. What was seen counts half (mid-P: Lancaster, JASA 56 (1961) 223-234), without which the
interval is too wide. And the correlation is estimated for each candidate mean, as the most likely one of a
beta-binomial distribution with that mean. So there is an estimate even where nothing is right: that a problem of which
4 % can be solved was missed in all 240 samples of 60 problems is likely only if solved problems are solved always, and
the interval of 0 of 240 is as wide as that of 0 of 60.

Its coverage is simulated in tests/evaluation/test_intervals.py; docs/how_to/evaluate.md has more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import NormalDist

import numpy
from numpy.typing import NDArray
from scipy import special

Z95 = NormalDist().inv_cdf(0.975)  # 1.96: half-width of a 95 % interval in standard errors
TAIL = 0.025  # outside a 95 % interval on each side
_HALVINGS = 40  # of [0, 1]: to 1e-12
# Grid of correlations, strictly between 0 and 1, finer towards the ends.
_CORRELATIONS = special.expit(numpy.linspace(-9.0, 7.0, 65))

Floats = NDArray[numpy.float64]


def t95(degrees: int) -> float:
    """Half-width of a 95 % interval in standard errors: the 97.5 % quantile of Student's t."""
    return float(special.stdtrit(degrees, 1 - TAIL))


@dataclass(frozen=True, slots=True)
class Tally:
    """Problems by how many of their samples were right and wrong; each field is [different pairs of these]."""

    right: Floats
    wrong: Floats
    problems: Floats

    @classmethod
    def of(cls, accuracies: Sequence[Sequence[float]]) -> Tally:
        """Count ``accuracies`` [problems][samples], in [0, 1]."""
        right = [fsum(samples) for samples in accuracies]
        wrong = [len(samples) - count for samples, count in zip(accuracies, right, strict=True)]
        (rights, wrongs), problems = numpy.unique([right, wrong], axis=1, return_counts=True)
        return cls(rights, wrongs, problems.astype(numpy.float64))

    @property
    def mean(self) -> float:
        """avg@k: every problem counts alike, whatever its number of samples."""
        return float(numpy.average(self.right / (self.right + self.wrong), weights=self.problems))


def confidence_interval(accuracies: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the mean over a population of problems; ``accuracies`` is [problems][samples], in [0, 1].

    Accuracies between 0 and 1, as of partial credit, vary less than right and wrong do, and get an interval that is too
    wide rather than too narrow.
    """
    tally = Tally.of(accuracies)
    mean = tally.mean
    low = 0.0 if mean == 0 else _boundary(0.0, mean, lambda tried: tails(tally, tried)[1] > TAIL)
    high = 1.0 if mean == 1 else _boundary(1.0, mean, lambda tried: tails(tally, tried)[0] > TAIL)
    return low, high


def tails(tally: Tally, mean: float) -> tuple[float, float]:
    """Mid-P probabilities of a result at most, and at least, as good as the tally, if the population has this mean.

    ``mean`` is strictly between 0 and 1.
    """
    degrees = max(1, int(tally.problems.sum()) - 1)
    samples = _effective_samples(tally, mean) * (Z95 / t95(degrees)) ** 2
    right, wrong = samples * tally.mean, samples * (1 - tally.mean)
    at_least = float(special.betainc(right, wrong + 1, mean)) if right > 0 else 1.0
    at_most = float(special.betainc(wrong, right + 1, 1 - mean)) if wrong > 0 else 1.0
    as_seen = at_least + at_most - 1
    return at_most - as_seen / 2, at_least - as_seen / 2


def _effective_samples(tally: Tally, mean: float) -> float:
    """mean (1 - mean) over the variance of avg@k, with the most likely correlation: n k / (1 + (k - 1) correlation)."""
    strength = (1 - _CORRELATIONS[:, None]) / _CORRELATIONS[:, None]  # alpha + beta of the beta distribution
    alpha, beta = mean * strength, (1 - mean) * strength
    logs = special.betaln(alpha + tally.right, beta + tally.wrong) - special.betaln(alpha, beta)
    correlation = _CORRELATIONS[int(numpy.argmax(logs @ tally.problems))]
    sizes = tally.right + tally.wrong
    variances = tally.problems * (1 + (sizes - 1) * correlation) / sizes
    return float(tally.problems.sum() ** 2 / variances.sum())


def _boundary(outside: float, inside: float, accepted: Callable[[float], bool]) -> float:
    """Where acceptance ends between a point outside the interval and one in it, by halving."""
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if accepted(middle):
            inside = middle
        else:
            outside = middle
    return inside
