"""Differences between two ways to train, measured on the same held-out problems from the same seeds.

Problems and seeds are both drawn at random, and each has an interval of its own: that over problems says what other
problems would show of these very runs, that over seeds what other runs would show on these problems. With few seeds
the latter is the wider one, and it is the one to judge a method by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from reasoner_rl.evaluation.estimators import Z95

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference and its 95 % interval; the ends are None where the observations do not tell."""

    mean: float
    low: float | None
    high: float | None


def t95(degrees: int) -> float:
    """Half-width of a 95 % interval in standard errors: the 97.5 % quantile of Student's t.

    Above 30 ``degrees`` by the expansion in 1/degrees of Fisher and Cornish (Technometrics 2, 1960), to 1e-4.
    """
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    first = (Z95**3 + Z95) / 4
    second = (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / 96
    return Z95 + first / degrees + second / degrees**2


def over_seeds(differences: Sequence[float]) -> Difference:
    """Mean of one difference per seed with Student's t interval; ``differences`` is [seeds].

    Where all are equal, which few seeds are by chance, there is no interval rather than one of no width.
    """
    centre, n = fmean(differences), len(differences)
    if len(set(differences)) == 1:
        return Difference(centre, None, None)
    half = t95(n - 1) * stdev(differences) / math.sqrt(n)
    return Difference(centre, centre - half, centre + half)


def paired(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Per problem, how much higher ``after`` is. Raises ValueError if they are not of the same problems."""
    if before.keys() != after.keys():
        raise ValueError(
            f"not the same problems: {len(before.keys() - after.keys())} and {len(after.keys() - before.keys())} of "
            f"{len(before)} and {len(after)} are in one of the two alone"
        )
    return {problem: after[problem] - before[problem] for problem in before}


def over_problems(differences: Sequence[Mapping[str, float]]) -> Difference:
    """Mean of differences per seed and problem with an interval clustered by problem; ``differences`` is [seeds].

    A problem that several seeds have in common is one cluster, for its differences resemble each other; the standard
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
