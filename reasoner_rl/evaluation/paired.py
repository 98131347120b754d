"""Differences between two ways to train, measured on the same held-out problems from the same seeds.

Problems and seeds are both drawn at random, and each has an interval of its own. The interval over problems is for the
same runs on other problems; that over seeds is for other runs on the same problems. With few seeds the latter is wider,
and it is the one to judge a method by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean, stdev

from reasoner_rl.evaluation.intervals import Z95, confidence_interval, t95


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference and its 95 % interval; the ends are None where the observations show no spread."""

    mean: float
    low: float | None
    high: float | None


def over_seeds(differences: Sequence[float]) -> Difference:
    """Mean of one difference per seed with Student's t interval; ``differences`` is [seeds].

    Where all are equal, as a few seeds may be by chance, there is no interval instead of one of width 0.
    """
    centre, n = fmean(differences), len(differences)
    if len(set(differences)) == 1:
        return Difference(centre, None, None)
    half = t95(n - 1) * stdev(differences) / math.sqrt(n)
    return Difference(centre, centre - half, centre + half)


def paired(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Per problem, how much higher ``after`` is. Raises ValueError if they are not of the same problems."""
    return {problem: after[problem] - before[problem] for problem in paired_keys(before, after)}


def paired_keys(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The problems of both. Raises ValueError if they are not the same."""
    if before.keys() != after.keys():
        raise ValueError(
            f"not the same problems: {len(before.keys() - after.keys())} and {len(after.keys() - before.keys())} of "
            f"{len(before)} and {len(after)} are in one of the two alone"
        )
    return list(before)


def over_problems(differences: Sequence[Mapping[str, float]]) -> Difference:
    """Mean of differences per seed and problem with an interval clustered by problem; ``differences`` is [seeds].

    A problem that several seeds have in common is one cluster, because its differences are correlated; the standard
    error is that of Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), with a sample variance.
    """
    pooled = [(problem, number) for of_seed in differences for problem, number in of_seed.items()]
    centre = fmean(number for _, number in pooled)
    sums: dict[str, float] = {}
    for problem, number in pooled:
        sums[problem] = sums.get(problem, 0.0) + number - centre
    clusters = len(sums)
    if clusters == 1:
        return Difference(centre, None, None)
    squares = sum(total**2 for total in sums.values())
    half = Z95 * math.sqrt(clusters / (clusters - 1) * squares) / len(pooled)
    return Difference(centre, centre - half, centre + half)


def paired_difference(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]
) -> Difference:
    """avg@k ``after`` minus avg@k ``before`` on the same problems, problem -> [samples], with its interval.

    Its width is above 0 where all differences are 0. Each end combines the distances a and b of the two means from the
    ends of their own intervals as sqrt(a^2 + b^2 - 2 r a b), with the correlation r of the problems' means (Zou and
    Donner, Statistics in Medicine 27 (2008) 1693-1702; for paired proportions it is Newcombe's method 10). Raises
    ValueError if they are not of the same problems.
    """
    rows = [(before[problem], after[problem]) for problem in paired_keys(before, after)]
    left, right = [row[0] for row in rows], [row[1] for row in rows]
    left_means, right_means = list(map(fmean, left)), list(map(fmean, right))
    varied = len(set(left_means)) > 1 and len(set(right_means)) > 1
    together = correlation(left_means, right_means) if varied else 0.0
    centre = fmean(right_means) - fmean(left_means)
    (left_low, left_high), (right_low, right_high) = confidence_interval(left), confidence_interval(right)
    below = _combined(fmean(right_means) - right_low, left_high - fmean(left_means), together)
    above = _combined(right_high - fmean(right_means), fmean(left_means) - left_low, together)
    return Difference(centre, centre - below, centre + above)


def _combined(one: float, other: float, together: float) -> float:
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * together * one * other))
