"""Power of paired comparisons: by simulation, and against scipy's distribution of the t statistic."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import optimize, stats

from reasoner_rl.evaluation.power import (
    Variances,
    detectable,
    power,
    problems_needed,
    variances_of_one,
    variances_of_two,
)


def test_power_is_that_of_the_paired_t_test() -> None:
    variances = Variances(within=0.2, spread=0.05)
    error = math.sqrt((0.05 + 2 * 0.2 / 4) / 50)
    shift, critical = 0.1 / error, stats.t.ppf(0.975, 49)
    expected = stats.nct.sf(critical, 49, shift) + stats.nct.cdf(-critical, 49, shift)
    assert power(0.1, variances, problems=50, samples=4) == pytest.approx(expected, abs=1e-9)
    assert power(-0.1, variances, problems=50, samples=4) == pytest.approx(expected, abs=1e-9)
    assert power(0.0, variances, problems=50, samples=4) == pytest.approx(0.05, abs=1e-9)


def test_power_is_the_share_of_simulated_experiments_that_find_the_difference() -> None:
    rng, runs, found = numpy.random.default_rng(0), 1000, 0
    for _ in range(runs):
        before = rng.beta(2, 3, 60) * 0.8
        after = before + 0.1
        right = [(rng.random((60, 8)) < rates[:, None]).mean(axis=1) for rates in (before, after)]
        found += stats.ttest_rel(right[1], right[0]).pvalue < 0.05
    rates = rng.beta(2, 3, 10**6) * 0.8
    within = (numpy.mean(rates * (1 - rates)) + numpy.mean((rates + 0.1) * (0.9 - rates))) / 2
    assert power(0.1, Variances(float(within), 0.0), problems=60, samples=8) == pytest.approx(
        found / runs, abs=0.03
    )


def test_what_is_needed_and_what_is_detectable_fit_together() -> None:
    variances = Variances(within=0.15, spread=0.02)
    for samples in (1, 4, 32):
        needed = problems_needed(0.05, variances, samples)
        assert needed is not None
        assert power(0.05, variances, needed, samples) >= 0.8 > power(0.05, variances, needed - 1, samples)
        assert detectable(variances, needed, samples) == pytest.approx(0.05, rel=0.01)
    # More samples help only down to what problems differ by: (0.02 + 0.3 / k) (1.96 + 0.84)^2 / 0.05^2.
    assert problems_needed(0.05, variances, 10**6) == pytest.approx(0.02 * 2.8016**2 / 0.05**2 + 2, abs=1)
    assert problems_needed(0.0, variances, 4) is None
    assert power(0.1, Variances(0.0, 0.0), 2, 1) == 1


def test_variances_are_estimated_without_bias() -> None:
    rng = numpy.random.default_rng(0)
    before = rng.beta(2, 2, 4000)  # variance 1/20; p (1 - p) is 1/5 on average
    after = numpy.clip(before + rng.choice([-0.1, 0.1], 4000), 0, 1)
    draws = [(rng.random((4000, 4)) < rates[:, None]).astype(float).tolist() for rates in (before, after)]
    one = variances_of_one(draws[0], resemblance=0.0)
    assert one.within == pytest.approx(0.2, abs=0.012)
    assert one.spread == pytest.approx(2 / 20, abs=0.012)
    assert variances_of_one(draws[0], resemblance=0.9).spread == pytest.approx(one.spread / 10)
    two = variances_of_two(*(dict(enumerate(each)) for each in draws))
    assert two.spread == pytest.approx(float(numpy.var(after - before)), abs=0.006)
    assert two.within == pytest.approx(
        float(numpy.mean(before * (1 - before)) + numpy.mean(after * (1 - after))) / 2, abs=0.012
    )


def test_large_differences_of_few_problems_have_a_power() -> None:
    """scipy 1.17's nctdtr is nan at -12.7 for 1 degree of freedom and a shift of 7.75, and at 2.26 for 9 and 37.75."""
    for problems, shift, expected in (
        (2, 7.75, stats.nct.sf(stats.t.ppf(0.975, 1), 1, 7.75)),
        (10, 37.75, 1.0),
    ):
        variances = Variances(within=0.0, spread=problems * (0.1 / shift) ** 2)
        assert power(0.1, variances, problems, 1) == pytest.approx(expected, abs=1e-9)
    # The smallest difference that 2 problems show, in standard errors: where 80 % of the distribution are significant.
    critical = stats.t.ppf(0.975, 1)
    wanted = optimize.brentq(lambda shift: stats.nct.sf(critical, 1, shift) - 0.8, 1, 100)
    assert detectable(Variances(0.0, 2e-4), 2, 1) == pytest.approx(0.01 * wanted, rel=1e-3)


def test_a_single_sample_or_problem_has_no_variance() -> None:
    for accuracies in ([[1.0], [0.0]], [[1.0, 0.0]]):
        with pytest.raises(ValueError, match="at least 2 problems, and 2 samples of each"):
            variances_of_one(accuracies, resemblance=0.5)
    pair = {"a": [1.0, 0.0], "b": [0.0, 0.0]}
    with pytest.raises(ValueError, match="not the same problems: 0 and 1 of 2 and 3"):
        variances_of_two(pair, pair | {"c": [1.0, 1.0]})
