"""The interval of avg@k: worked values, and its coverage in simulations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy
import pytest
from scipy import stats

from reasoner_rl.evaluation.intervals import TAIL, Z95, Tally, confidence_interval, t95, tails

Rates = Callable[[numpy.random.Generator, int], numpy.ndarray]
PROBLEMS = 30


def samples(problems: int, k: int, right: list[int]) -> list[list[float]]:
    """Accuracies of so many problems, the first of which have these numbers of right samples, and the others none."""
    return [[1.0] * c + [0.0] * (k - c) for c in [*right, *[0] * (problems - len(right))]]


@pytest.mark.parametrize("degrees", [1, 2, 10, 29, 30, 31, 100, 5000])
def test_t95_leaves_five_percent_outside(degrees: int) -> None:
    assert t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


@pytest.mark.parametrize(("n", "right"), [(30, 3), (30, 15), (200, 1)])
def test_single_samples_get_the_mid_p_interval_of_a_binomial(n: int, right: int) -> None:
    """With one sample per problem there is no correlation; scipy has no mid-P interval, but the distribution."""
    scale = (Z95 / t95(n - 1)) ** 2

    def at_least(mean: float) -> float:  # by the beta distribution, which continues the binomial to fractions
        x, m = right * scale, n * scale
        more, this_or_more = stats.beta.cdf(mean, x + 1, m - x), stats.beta.cdf(mean, x, m - x + 1)
        return float(more + this_or_more) / 2

    low, high = confidence_interval(samples(n, 1, [1] * right))
    assert at_least(low) == pytest.approx(TAIL, abs=1e-9)
    assert at_least(high) == pytest.approx(1 - TAIL, abs=1e-9)


def test_nothing_right_is_worth_one_sample_per_problem() -> None:
    """With a mid-P of (1 - p)^n / 2 = 2.5 %: n = 60 (z / t)^2, however many samples of each."""
    n = 60 * (Z95 / t95(59)) ** 2
    for k in (1, 4, 32):
        low, high = confidence_interval(samples(60, k, []))
        assert low == 0
        assert high == pytest.approx(1 - 0.05 ** (1 / n), rel=2e-3)
        assert confidence_interval([[1.0] * k] * 60) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_one_more_right_answer_does_not_drop_the_bounds() -> None:
    """As three users met it: 0 of 60 x 4 had an upper bound of 0.060, and 1 of 240 one of 0.012.

    The upper bound may fall a little, because each further problem that is solved once in four shows that samples of a
    problem are less alike.
    """
    bounds = [confidence_interval(samples(60, 4, [1] * right)) for right in range(8)]
    assert [low for low, _ in bounds] == sorted(low for low, _ in bounds)
    highs = [high for _, high in bounds]
    assert all(later > 0.97 * earlier for earlier, later in itertools.pairwise(highs)), highs
    assert bounds[0] == pytest.approx((0, 0.05068), abs=1e-5)
    assert bounds[1] == pytest.approx((0.00019, 0.05233), abs=1e-5)


def test_width_depends_on_how_alike_the_samples_of_a_problem_are() -> None:
    together, apart = samples(30, 4, [4] * 15), samples(30, 4, [2] * 30)
    one_each = confidence_interval(samples(30, 1, [1] * 15))
    assert confidence_interval(together) == pytest.approx(one_each, abs=2e-3)
    low, high = confidence_interval(apart)
    assert high - low == pytest.approx((one_each[1] - one_each[0]) / 2, rel=0.03)


def test_problems_count_alike_whatever_their_number_of_samples() -> None:
    mixed = [[1.0] * 8, [0.0], [1.0, 0.0]]
    assert Tally.of(mixed).mean == 0.5
    low, high = confidence_interval(mixed)
    assert 0 <= low < 0.5 < high <= 1
    # One problem says nothing of others.
    assert confidence_interval([[1.0, 0.0]]) == pytest.approx((0, 1), abs=1e-6)
    assert confidence_interval([[0.5, 0.5], [0.25, 1.0]])[0] >= 0


POPULATIONS: dict[str, Callable[[float], Rates]] = {
    **{
        f"beta, correlation {rho}": lambda mean, s=(1 - rho) / rho: (
            lambda rng, n: rng.beta(mean * s, (1 - mean) * s, n)
        )
        for rho in (0.02, 0.4, 0.9)
    },
    "solved always or never": lambda mean: lambda rng, n: (rng.random(n) < mean).astype(float),
    "half of the samples of few": lambda mean: (
        lambda rng, n: numpy.where(rng.random(n) < mean / max(0.5, mean), max(0.5, mean), 0.0)
    ),
}


@pytest.mark.parametrize("mean", [0.005, 0.02, 0.3, 0.9])
def test_coverage(mean: float) -> None:
    """At least 93 % for 30 problems drawn from each population; below 99 % where 30 % are solved.

    At 2 % and 90 % few different results are likely, so coverage is above 95 %. That the mean is in the interval is the
    same as that neither of its tails is below 2.5 %, which is faster to compute.
    """
    rng, runs = numpy.random.default_rng(0), 800
    known: dict[tuple[int, bytes], bool] = {}

    def covered(k: int, right: numpy.ndarray) -> bool:
        rights, counts = numpy.unique(right, return_counts=True)
        seen = k, rights.tobytes() + counts.tobytes()
        if seen not in known:
            known[seen] = min(tails(Tally(rights, k - rights, counts), mean)) > TAIL
        return known[seen]

    # With one sample per problem the population plays no part: the number of right ones is binomial.
    one_each = ((stats.binom.pmf(c, PROBLEMS, mean), numpy.arange(PROBLEMS) < c) for c in range(PROBLEMS + 1))
    found = {(1, "any"): sum(chance for chance, right in one_each if covered(1, right.astype(float)))}
    for k in (4, 32):
        for name, rates in POPULATIONS.items():
            draws = (rng.binomial(k, rates(mean)(rng, PROBLEMS)) for _ in range(runs))
            found[k, name] = sum(covered(k, right.astype(float)) for right in draws) / runs
    assert min(found.values()) > 0.93, found
    if mean == 0.3:
        assert max(found.values()) < 0.99, found
    # The interval's ends are where a tail falls below 2.5 %.
    accuracies = samples(PROBLEMS, 4, [4, 3, 1])
    low, high = confidence_interval(accuracies)
    assert math.isclose(tails(Tally.of(accuracies), low)[1], TAIL, rel_tol=1e-2)
    assert math.isclose(tails(Tally.of(accuracies), high)[0], TAIL, rel_tol=1e-2)
