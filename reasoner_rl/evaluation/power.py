"""How many problems, and samples of each, it takes to see a difference between two models.

Both models answer the same problems. The difference that is seen varies, over problems drawn from a population, by

    variance = (spread + 2 within / samples) / problems

spread: variance over problems of the true differences between the two models. within: mean over problems of the
variance of one sample, p (1 - p). More samples per problem remove the second part alone (Miller, arXiv 2411.00640,
section 5). Power is that of the two-sided paired t-test at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy
from scipy import special

from reasoner_rl.evaluation.intervals import TAIL
from reasoner_rl.evaluation.paired import paired_keys

_MOST_PROBLEMS = 10_000_000


@dataclass(frozen=True, slots=True)
class Variances:
    """The two variances in the formula above; accuracies are in [0, 1]."""

    within: float  # of one sample of a problem, mean over problems (and over both models)
    spread: float  # of the true difference between the models, over problems

    @property
    def known(self) -> bool:
        """Whether anything varied. Where nothing did, as with no sample right, the variances are not 0 but unknown."""
        return self.within > 0 or self.spread > 0

    def of_difference(self, problems: int, samples: int) -> float:
        """Variance of the observed difference."""
        return (self.spread + 2 * self.within / samples) / problems


def variances_of_one(accuracies: Sequence[Sequence[float]], resemblance: float) -> Variances:
    """Estimate variances from one model's accuracies, [problems][samples], at least 2 of each.

    resemblance: assumed correlation in [0, 1] of the two models' true accuracies over problems. For a model and the
    same model after some more training it is high, such as 0.9; 0 is the worst case. Raises ValueError for a single
    problem or sample.
    """
    within = fmean(map(_variance, accuracies))
    between = _variance([fmean(samples) for samples in accuracies])
    noise = fmean(_variance(samples) / len(samples) for samples in accuracies)
    return Variances(within, 2 * (1 - resemblance) * max(0.0, between - noise))


def variances_of_two(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]
) -> Variances:
    """Estimate variances from the accuracies of two models, problem -> [samples], on the same problems.

    Raises ValueError for a single problem or sample, and if the problems differ.
    """
    both = [(before[problem], after[problem]) for problem in paired_keys(before, after)]
    within = fmean(_variance(samples) for pair in both for samples in pair)
    seen = _variance([fmean(right) - fmean(left) for left, right in both])
    noise = fmean(_variance(samples) / len(samples) for pair in both for samples in pair) * 2
    return Variances(within, max(0.0, seen - noise))


def power(difference: float, variances: Variances, problems: int, samples: int) -> float:
    """Probability that a true ``difference`` is found significant at 5 %; needs at least 2 problems."""
    error = math.sqrt(variances.of_difference(problems, samples))
    if error == 0:
        return 1.0 if difference else 0.0
    degrees = problems - 1
    critical = float(special.stdtrit(degrees, 1 - TAIL))
    shift = abs(difference) / error
    # nctdtr is nan for some large shifts, where the probability is practically 0.
    below, far_below = numpy.nan_to_num(special.nctdtr(degrees, shift, [critical, -critical]), nan=0.0)
    return float(1 - below + far_below)


def problems_needed(difference: float, variances: Variances, samples: int, wanted: float = 0.8) -> int | None:
    """Fewest problems with which a true ``difference`` is found with a probability of ``wanted``.

    None if 10 million do not suffice, as where the difference is 0.
    """
    high = 2
    while power(difference, variances, high, samples) < wanted:
        if high >= _MOST_PROBLEMS:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:  # power(high) suffices; power(low) does not, or low is 1
        middle = (low + high) // 2
        if power(difference, variances, middle, samples) < wanted:
            low = middle
        else:
            high = middle
    return high


def detectable(variances: Variances, problems: int, samples: int, wanted: float = 0.8) -> float:
    """The smallest difference, up to 1, that is found with a probability of ``wanted``; 1 if none is."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if power(middle, variances, problems, samples) < wanted:
            low = middle
        else:
            high = middle
    return high


def _variance(numbers: Sequence[float]) -> float:
    """The unbiased sample variance. Raises ValueError for a single number."""
    if len(numbers) < 2:
        raise ValueError("a variance needs at least 2 problems, and 2 samples of each")
    return float(numpy.var(numbers, ddof=1))
