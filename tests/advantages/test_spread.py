"""How far scores differ, and what is said where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from reasoner_rl.advantages.spread import EqualScores, spread_metrics
from reasoner_rl.metrics import values
from reasoner_rl.types import ScoredGroup

Make = Callable[..., ScoredGroup]


def test_the_share_of_equal_groups_and_both_deviations(scored_group: Make) -> None:
    groups = [
        scored_group([1.0, 1.0]),
        scored_group([0.0, 1.0]),
        scored_group([0.0, 3e-7]),
        scored_group([9.0]),
    ]
    found = values(spread_metrics(groups))
    assert found["groups/equal_share"] == pytest.approx(2 / 3)  # a lone response is not compared with any
    assert found["groups/reward_std"] == pytest.approx((0 + math.sqrt(0.5) + 0) / 3, abs=1e-6)
    assert found["reward/score_std"] == pytest.approx(math.sqrt((3 - 9 / 6) / 5), abs=1e-6)  # of 1 1 0 1 0 0
    assert found["groups/dead_share"] == pytest.approx(1 / 3)  # the first group is all right
    assert spread_metrics([scored_group([9.0])]) == {}


def test_a_stretch_of_equal_scores_is_told_once(scored_group: Make) -> None:
    equal, mixed = scored_group([0.0, 0.0]), scored_group([0.0, 1.0])
    watch = EqualScores()
    assert watch.message([equal, mixed]) is None
    assert str(watch.message([equal, equal])).startswith("all rewards are 0: they say of no response")
    assert watch.message([equal, equal]) is None
    assert watch.message([]) is None
    assert watch.message([mixed]) is None
    other = scored_group([1.0, 1.0])
    assert str(watch.message([equal, other])).startswith("within every group rewards are equal: they say")


def test_many_steps_of_mostly_equal_groups_are_told_once(scored_group: Make) -> None:
    mostly = [scored_group([0.0, 0.0])] * 9 + [scored_group([0.0, 1.0])]
    fewer = [scored_group([0.0, 0.0])] * 8 + [scored_group([0.0, 1.0])] * 2
    watch = EqualScores()
    assert [watch.message(mostly) for _ in range(9)] == [None] * 9
    assert watch.message(fewer) is None
    assert [watch.message(mostly) for _ in range(9)] == [None] * 9
    assert str(watch.message(mostly)).startswith(
        "for 10 steps at least 90% of the groups have had equal rewards"
    )
    assert watch.message(mostly) is None
