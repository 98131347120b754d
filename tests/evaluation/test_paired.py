"""Paired differences: hand-computed intervals, and what they do with few seeds and common problems."""

from __future__ import annotations

import math

import numpy
import pytest

from reasoner_rl.evaluation.intervals import confidence_interval
from reasoner_rl.evaluation.paired import Difference, over_problems, over_seeds, paired, paired_difference


def test_an_interval_over_seeds_by_hand() -> None:
    # Mean 0.02, standard deviation 0.02, standard error 0.02 / sqrt(3); t with 2 degrees of freedom is 4.30265.
    difference = over_seeds([0.0, 0.02, 0.04])
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert difference.mean == pytest.approx(0.02)
    assert (difference.low, difference.high) == (pytest.approx(0.02 - half), pytest.approx(0.02 + half))


@pytest.mark.parametrize("differences", [[0.03], [0.03, 0.03]])
def test_seeds_that_show_no_spread_give_no_interval(differences: list[float]) -> None:
    assert over_seeds(differences) == Difference(0.03, None, None)


def test_pairing_takes_the_difference_of_each_problem() -> None:
    assert paired({"a": 0.25, "b": 1.0}, {"b": 0.0, "a": 0.75}) == {"a": 0.5, "b": -1.0}
    with pytest.raises(ValueError, match="1 and 2 of 2 and 3 are in one of the two alone"):
        paired({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 0.0, "d": 0.0})


def test_an_interval_over_problems_by_hand() -> None:
    # Differences 1, 0, 0, -1 of four problems: sample variance 2/3, standard error sqrt(2/3/4).
    difference = over_problems([{"a": 1.0, "b": 0.0, "c": 0.0, "d": -1.0}])
    half = 1.959964 * math.sqrt(2 / 3 / 4)
    assert difference.mean == 0
    assert (difference.low, difference.high) == (
        pytest.approx(-half, abs=1e-6),
        pytest.approx(half, abs=1e-6),
    )
    assert over_problems([{"a": 1.0}]) == Difference(1.0, None, None)


def test_seeds_that_answer_common_problems_alike_add_no_certainty() -> None:
    one = {"a": 1.0, "b": 0.0, "c": 0.0, "d": -1.0}
    assert over_problems([one, one]) == over_problems([one])
    others = {f"{problem} of seed 1": number for problem, number in one.items()}
    wide, narrow = over_problems([one]), over_problems([one, others])
    assert wide.high is not None
    assert narrow.high is not None
    # Eight problems in place of four, with the sample variance 4/7: sqrt(4/7/8) against sqrt(2/3/4).
    assert narrow.high / wide.high == pytest.approx(math.sqrt((4 / 7 / 8) / (2 / 3 / 4)))


def test_a_paired_difference_by_hand() -> None:
    """Zou and Donner's interval from the means' own; 4 problems, so that the correlation is easily written down."""
    before = {"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0], "d": [0.0, 0.0]}
    after = {"a": [1.0, 1.0], "b": [0.0, 1.0], "c": [1.0, 1.0], "d": [0.0, 0.0]}
    (l1, u1), (l2, u2) = (confidence_interval(list(each.values())) for each in (before, after))
    # Means 1/2 0 1 0 and 1 1/2 1 0, less 3/8 and 5/8: products 3/64 + 3/64 + 15/64 + 15/64, squares 44/64 and 44/64.
    together = 36 / 44
    difference = paired_difference(before, after)
    assert difference.mean == 0.25
    below, above = (5 / 8 - l2, u1 - 3 / 8), (u2 - 5 / 8, 3 / 8 - l1)
    ends = [math.sqrt(x * x + y * y - 2 * together * x * y) for x, y in (below, above)]
    assert (difference.low, difference.high) == pytest.approx((0.25 - ends[0], 0.25 + ends[1]))


def test_a_paired_difference_has_a_width_where_nothing_is_right() -> None:
    nothing = {str(number): [0.0] * 4 for number in range(30)}
    difference = paired_difference(nothing, nothing)
    high = confidence_interval(list(nothing.values()))[1]
    assert (difference.mean, difference.low, difference.high) == (0, -high, high)
    assert paired_difference(nothing, {**nothing, "0": [1.0] * 4}).low < 0
    with pytest.raises(ValueError, match="not the same problems: 1 and 0 of 30 and 29"):
        paired_difference(nothing, dict(list(nothing.items())[:29]))


@pytest.mark.parametrize(("mean", "gain"), [(0.02, 0.0), (0.3, 0.1)])
def test_coverage_of_a_paired_difference(mean: float, gain: float) -> None:
    rng, inside, runs = numpy.random.default_rng(0), 0, 60
    for _ in range(runs):
        rates = rng.beta(mean, 1 - mean, 30) * (1 - gain)  # correlation 1/2; the true difference is `gain`
        pair = []
        for shift in (0.0, gain):
            right = rng.random((30, 4)) < (rates + shift)[:, None]
            pair.append({str(number): row.tolist() for number, row in enumerate(right.astype(float))})
        difference = paired_difference(*pair)
        assert difference.low is not None
        assert difference.high is not None
        inside += difference.low <= gain <= difference.high
    assert inside / runs >= 0.93
