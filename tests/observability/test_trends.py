"""Alarms of hand-made series: the exact step, limit and onset, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.observability.trends import Alarm, Watched, needed_rows, replay

PER_PROMPT = 4


def rows(name: str, numbers: Sequence[float | None], **others: float) -> list[dict[str, Any]]:
    """One row per step, of 8 groups."""
    made = [{"step": step, "groups/generated": 8.0, **others} for step in range(1, len(numbers) + 1)]
    return [
        row if number is None else {**row, name: number} for row, number in zip(made, numbers, strict=True)
    ]


def alarms(
    name: str, numbers: Sequence[float | None], limits: dict[str, Any] | None = None, **others: float
) -> list[Alarm]:
    config = DriftConfig.model_validate({"gap": {"above": 0.01}, **(limits or {})})
    return replay(rows(name, numbers, **others), config, PER_PROMPT)


GAP = "policy/rollout_gap_mean"


def test_a_gap_beyond_the_absolute_limit_is_an_alarm_in_the_first_step() -> None:
    [alarm] = alarms(GAP, [0.02])
    assert (alarm.step, alarm.trend, alarm.metric, alarm.limit, alarm.since) == (1, "gap", GAP, 0.01, 1)
    assert str(alarm) == f"gap: {GAP} is 0.02, above 0.01 (drift.gap.above)"
    assert alarms(GAP, [0.02], {"gap": {"above": None}}) == []
    assert alarms(GAP, [0.02], {"gap": None}) == []


def test_a_gap_is_compared_with_the_median_before_it() -> None:
    # Median 2e-4, no spread: more than 5 times and more than 1e-3 above it, so above 1.2e-3.
    flat = [2e-4] * 4
    assert alarms(GAP, [*flat, 1.15e-3]) == []
    [alarm] = alarms(GAP, [*flat, 1.25e-3])
    assert (alarm.step, alarm.limit) == (5, pytest.approx(1.2e-3))
    # Median 4e-4: five times that is above what `by` asks for.
    [alarm] = alarms(GAP, [*[4e-4] * 4, 2.1e-3])
    assert alarm.limit == pytest.approx(2e-3)
    assert alarms(GAP, [2e-4, 2e-4, 5e-3]) == [], "two steps are not enough to compare with"


def test_a_spread_of_the_past_widens_the_limit() -> None:
    # Median 3e-3, of which the others are 1/3, 1/1.5, 1, 1.33 and 1.67: the median distance is a factor of 1.5.
    spread = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]
    limits: dict[str, Any] = {"gap": {"above": None, "times": 2}}
    limit = 3e-3 * 1.5 ** (4 * 1.4826)
    assert alarms(GAP, [*spread, 0.99 * limit], limits) == []
    [alarm] = alarms(GAP, [*spread, 1.01 * limit], limits)
    assert alarm.limit == pytest.approx(limit)
    # Of shares the distances themselves: the median one is 0.1.
    name, shares = "response/truncated_share", [0.1, 0.2, 0.3, 0.4, 0.5]
    limits = {"truncation": {"by": 0.05}}
    assert alarms(name, [*shares, 0.89], limits) == []
    [alarm] = alarms(name, [*shares, 0.9], limits)
    assert alarm.limit == pytest.approx(0.3 + 4 * 1.4826 * 0.1)


def test_only_the_window_counts_and_steps_without_the_number_do_not() -> None:
    limits = {"window": 3, "gap": {"above": None}}
    [alarm] = alarms(GAP, [8e-3, 8e-3, 1e-4, None, 1e-4, 1e-4, 4e-3], limits)
    assert (alarm.step, alarm.limit) == (7, pytest.approx(1.1e-3))


def test_a_stretch_is_told_once_and_the_next_after_a_window_without_one() -> None:
    # A new level is the past's own after half a window, and a single step beyond is told again only then.
    numbers = [1e-4] * 5 + [5e-3] * 5 + [1e-4] * 30 + [5e-3] + [1e-4] * 5 + [5e-3] * 2
    assert [alarm.step for alarm in alarms(GAP, numbers)] == [6, 41]
    absolute = alarms(GAP, [*[0.02] * 40, *[1e-4] * 40, 0.02])
    assert [alarm.step for alarm in absolute] == [1, 81]


def test_entropy_may_neither_collapse_nor_explode() -> None:
    name = "policy/entropy"
    [fallen] = alarms(name, [0.5, 0.5, 0.5, 0.4, 0.09])
    assert (fallen.step, fallen.limit, fallen.rising) == (5, pytest.approx(0.125), False)
    [risen] = alarms(name, [0.5, 0.5, 0.5, 2.1])
    assert (risen.step, risen.limit, risen.rising) == (4, pytest.approx(2.0), True)
    assert alarms(name, [0.04, 0.04, 0.04, 0.004]) == [], "below `by` only the absolute limit counts"
    [gone] = alarms(name, [0.04, 0.04, 0.04, 0.0009])
    assert gone.rule == "below 0.001 (drift.entropy.below)"


def test_the_onset_is_the_first_of_the_steps_beyond_the_middle() -> None:
    # Limit 0.1 + 0.25; the middle is 0.225, which steps 5 and 6 are beyond already.
    [alarm] = alarms("response/truncated_share", [0.1, 0.1, 0.1, 0.1, 0.25, 0.3, 0.4])
    assert (alarm.step, alarm.limit, alarm.since) == (7, pytest.approx(0.35), 5)


def test_lengths_and_shares() -> None:
    assert alarms("response/length_mean", [10, 10, 10, 25.9]) == []  # 16 tokens more
    [longer] = alarms("response/length_mean", [10, 10, 10, 31])
    assert longer.limit == 30
    [shorter] = alarms("response/length_mean", [300, 300, 300, 90])
    assert (shorter.limit, shorter.rising) == (pytest.approx(100), False)


def test_failures_are_counted_per_response() -> None:
    # 32 responses per step; more than 5 % more than before is an alarm.
    crashes = {"reward/timeouts": 1.0}
    assert alarms("reward/crashes", [0, 0, 0, 1], **crashes) == []
    [alarm] = alarms("reward/crashes", [0, 0, 0, 2], **crashes)
    assert (alarm.trend, alarm.value, alarm.limit) == ("failures", 3 / 32, pytest.approx(1 / 32 + 0.05))
    [first] = alarms("reward/crashes", [6], **crashes)  # 7 of 32, above a fifth in the first step already
    assert first.limit == 0.2
    [unparsed] = alarms("reward/unparsed", [4, 4, 4, 13])
    assert (unparsed.trend, unparsed.limit) == ("unparsed", pytest.approx(4 / 32 + 0.25))


def test_groups_that_are_all_right_are_not_dead() -> None:
    [alarm] = alarms("groups/dead_share", [0.1, 0.1, 0.1, 0.6])
    assert (alarm.trend, alarm.value) == ("dead_groups", 0.6)
    # Earlier versions have logged equal scores, and how many groups were dropped as all right: 4 of 8.
    assert alarms("groups/equal_share", [0.1, 0.1, 0.1, 0.6]) != []
    assert alarms("groups/equal_share", [0.1, 0.1, 0.1, 0.6], **{"groups/dropped_right": 4.0}) == []


def test_memory_that_would_be_full_soon() -> None:
    name, window = "memory/host_used_share", {"window": 3}
    # 2 % per step from 0.5 on: at 0.62 19 steps are left; one step in another direction does not change the median.
    growing = [0.5, 0.52, 0.54, 0.56, 0.58, 0.6, 0.62]
    [alarm] = alarms(name, growing, window)
    assert (alarm.step, alarm.limit, alarm.since) == (7, pytest.approx(0.6), 7)
    assert "it grows by 0.02 per step, and would be full in 19 steps" in alarm.rule
    assert alarms(name, [0.5, 0.5, 0.8, 0.5, 0.5, 0.5], window) == []
    [full] = alarms(name, [0.96], window)
    assert full.limit == 0.95


def test_rows_of_evaluations_are_not_steps() -> None:
    made = rows(GAP, [1e-4] * 4 + [5e-3])
    with_evaluations = [each for row in made for each in (row, {"step": row["step"], "eval/x/accuracy": 0.5})]
    config = DriftConfig.model_validate({"gap": {"above": None}})
    assert replay(with_evaluations, config, PER_PROMPT) == replay(made, config, PER_PROMPT) != []


def test_a_resumed_run_raises_what_an_uninterrupted_one_does() -> None:
    numbers = [1e-4, 2e-4, 1e-4, 5e-3, 6e-3, 1e-4, 1e-4, 1e-4, 7e-3, 1e-4] * 5
    made, config = rows(GAP, numbers), DriftConfig.model_validate({"gap": {"above": None}, "window": 4})
    expected = replay(made, config, PER_PROMPT)
    assert len(expected) > 3
    for resumed_after in range(len(made)):
        before = made[:resumed_after]
        watched = Watched(config, PER_PROMPT, before[-needed_rows(config) :])
        found = [alarm for row in made[resumed_after:] for alarm in watched.add(row)]
        assert found == [alarm for alarm in expected if alarm.step > resumed_after]
