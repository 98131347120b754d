"""Paired differences: hand-computed intervals, and what they do with few seeds and common problems."""

from __future__ import annotations

import math

import pytest
from mpmath import betainc

from reasoner_rl.evaluation.paired import Difference, over_problems, over_seeds, paired, t95


@pytest.mark.parametrize("degrees", [*range(1, 31), 31, 60, 1000])
def test_t95_leaves_five_percent_outside(degrees: int) -> None:
    t = t95(degrees)
    outside = betainc(degrees / 2, 0.5, 0, degrees / (degrees + t**2), regularized=True)
    assert float(outside) == pytest.approx(0.05, abs=3e-5)


def test_an_interval_over_seeds_by_hand() -> None:
    # Mean 0.02, standard deviation 0.02, standard error 0.02 / sqrt(3); t with 2 degrees of freedom is 4.3027.
    difference = over_seeds([0.0, 0.02, 0.04])
    half = 4.3027 * 0.02 / math.sqrt(3)
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
