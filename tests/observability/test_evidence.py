"""Which responses an alarm names."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest

from reasoner_rl.observability.evidence import MOST_RESPONSES, evidence_for, responses_of
from reasoner_rl.observability.token_gaps import (
    ResponseGaps,
    gaps_by_position,
    gaps_by_token,
    worst_responses,
)
from reasoner_rl.observability.trends import Alarm, Evidence
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

Group = Callable[..., ScoredGroup]


def alarm(trend: str, *, rising: bool = True) -> Alarm:
    return Alarm(3, trend, "", 0.0, 0.0, "", 3, rising)


def gaps_of(*lists: list[float]) -> list[numpy.ndarray]:
    return [numpy.array(each) for each in lists]


def test_gaps_name_the_worst_responses_and_their_worst_tokens(scored_group: Group) -> None:
    group = scored_group([1.0, 0.0, 0.0])  # of 1, 2 and 3 tokens
    responses = responses_of([group], "rollouts/f.parquet", 3, gaps_of([0.1], [0.5, 0.9], [0.0, 0.2, 0.1]))
    first, second, third = evidence_for(alarm("gap"), responses)
    text = "mean gap 0.7 nats; worst tokens 1 (0.9), 0 (0.5)"
    assert first == Evidence("uid", 1, text, "rollouts/f.parquet", 1, (1, 0))
    assert (second.row, second.positions) == (0, (0,)) or (third.row, third.positions) == (0, (0,))
    assert {second.positions, third.positions} == {(0,), (1, 2, 0)}


def test_what_is_not_recorded_has_no_place(scored_group: Group) -> None:
    groups = [scored_group([1.0, 0.0]), scored_group([1.0, 0.0])]
    responses = responses_of(groups, "f", 2)
    assert [(each.file, each.row) for each in responses] == [("f", 0), ("f", 1), (None, None), (None, None)]
    assert [each.row for each in responses_of(groups, None, 4)] == [None] * 4


def test_lengths_certainty_and_truncation(scored_group: Group) -> None:
    responses = responses_of(
        [scored_group([0.0] * 7)], "f", 7
    )  # of 1 to 7 tokens, the j-th of logprob -(j + 1) / 2
    assert [each.row for each in evidence_for(alarm("length"), responses)] == [6, 5, 4, 3, 2]
    assert [each.row for each in evidence_for(alarm("length", rising=False), responses)][:2] == [0, 1]
    assert evidence_for(alarm("truncation"), responses) == ()
    assert evidence_for(alarm("entropy"), responses)[0].text == "mean logprob -2 over 7 tokens"
    assert (
        evidence_for(alarm("entropy", rising=False), responses)[0].text == "mean logprob -0.5 over 1 tokens"
    )
    assert evidence_for(alarm("host_memory"), responses) == ()


def test_failures_and_dead_groups(scored_group: Group) -> None:
    statuses = ["ok", "crash", "unparsed", "timeout", "undecided"]
    rewards = tuple(Reward(0.0, 0.0, {}, status=status, seconds=2.0) for status in statuses)
    rollouts = tuple(Rollout((5,), (-1.0,), "length", 0, "") for _ in statuses)
    group = ScoredGroup(Prompt("p", (1,), "", "", ""), rollouts, rewards)
    responses = responses_of([group, scored_group([1.0, 1.0]), scored_group([1.0, 0.0])], "f", 99)
    assert [each.text for each in evidence_for(alarm("failures"), responses)] == [
        "status crash, 2 s",
        "status timeout, 2 s",
    ]
    assert [each.row for each in evidence_for(alarm("unparsed"), responses)] == [2]
    [dead] = evidence_for(alarm("dead_groups"), responses)  # the second group is all right, the third differs
    assert (dead.uid, dead.row, dead.text) == ("p", 0, "all 5 responses of the group have score 0")
    assert len(evidence_for(alarm("truncation"), responses)) == MOST_RESPONSES


def test_gaps_by_position_token_and_response() -> None:
    one = ResponseGaps(1, "a", 0, [9], [4, 4, 5, 6, 7], numpy.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    two = ResponseGaps(1, "b", 1, [9], [4, 8], numpy.array([0.3, 0.8]))
    found = [
        (each.key, each.last, each.tokens, each.mean, each.largest) for each in gaps_by_position([one, two])
    ]
    assert found == [
        (0, 0, 2, pytest.approx(0.2), 0.3),
        (1, 1, 2, pytest.approx(0.5), 0.8),
        (2, 3, 2, pytest.approx(0.35), 0.4),
        (4, 7, 1, pytest.approx(0.5), 0.5),
    ]
    tokens = gaps_by_token([one, two], 3)
    assert [(each.key, each.tokens) for each in tokens] == [(8, 1), (7, 1), (6, 1)]
    [four] = [each for each in gaps_by_token([one, two], 9) if each.key == 4]
    assert (four.tokens, four.mean, four.largest) == (3, pytest.approx(0.2), 0.3)
    assert worst_responses([one, two], 1) == [two]
    assert gaps_by_position([]) == []
    assert gaps_by_token([], 3) == []
