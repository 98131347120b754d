"""Requests are started by the lengths of earlier responses; nothing but their order changes."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.rewards.runner import RewardTask
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.sources.expected_lengths import ExpectedLengths, longest_first
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

LENGTHS = (3, 9, 5, 7)  # of the responses to each prompt


def group(*lengths: int) -> ScoredGroup:
    rollouts = tuple(Rollout([1] * n, [-1.0] * n, "stop", 0, "") for n in lengths)
    return ScoredGroup(Prompt("p", (1,), "", "", ""), rollouts, (Reward(0.0, 0.0, {}),) * len(lengths))


def request(number: int, begun: Sequence[int] = ()) -> GenerationRequest:
    return GenerationRequest((1,), 1, number, number=number, begun=array("i", begun))


def numbers(requests: Sequence[GenerationRequest]) -> list[int]:
    return [each.number for each in requests]


def test_a_running_mean_in_which_older_responses_count_less() -> None:
    lengths = ExpectedLengths()
    assert lengths.of(4) is None
    lengths.learn([4, 2], [group(2, 4), group(10)])
    assert (lengths.of(4), lengths.of(2)) == (3.0, 10.0)
    lengths.learn([4], [group(9, 9)])
    assert lengths.of(4) == (0.5 * 6 + 18) / (0.5 * 2 + 2)
    again = ExpectedLengths()
    again.restore(json.loads(json.dumps(lengths.state())))
    for each in (lengths, again):
        each.learn([4, 2], [group(1), group(30, 20)])
    assert again.state() == lengths.state()
    assert again.of(2) == (0.5 * 10 + 50) / 2.5


def test_the_longest_come_first_and_equals_stay_in_order() -> None:
    requests = [request(n) for n in range(5)]
    assert numbers(longest_first(requests, {0: 5.0, 1: 9.0, 2: 5.0, 3: 11.0, 4: 1.0})) == [3, 1, 0, 2, 4]
    assert numbers(longest_first(requests, dict.fromkeys(range(5)))) == [0, 1, 2, 3, 4], "nothing is known"
    # 2 and 4 count as (4 + 9 + 8) / 3 = 7.
    assert numbers(longest_first(requests, {0: 4.0, 1: 9.0, 2: None, 3: 8.0, 4: None})) == [1, 3, 2, 4, 0]


def test_what_was_put_off_for_its_length_comes_first() -> None:
    requests = [request(0), request(1, [7] * 3), request(2), request(3, [7] * 2)]
    assert numbers(longest_first(requests, {0: 9.0, 1: 2.0, 2: 8.0, 3: 5.0})) == [3, 1, 0, 2]


@given(st.lists(st.none() | st.integers(0, 9), max_size=8))
def test_every_request_is_there_once_and_whole(expected: list[int | None]) -> None:
    requests = [request(number) for number in range(len(expected))]
    ordered = longest_first(requests, dict(enumerate(map(as_float, expected))))
    assert sorted(ordered, key=lambda each: each.number) == requests
    known = [each for each in (expected[one.number] for one in ordered) if each is not None]
    assert known == sorted(known, reverse=True)


def as_float(number: int | None) -> float | None:
    return None if number is None else float(number)


class Recorded:
    """Answers prompt i with a length of its own, the last submitted first."""

    def __init__(self) -> None:
        self.submitted: list[list[int]] = []
        self.seeds: dict[int, int] = {}
        self.works: list[GenerationRequest] = []

    def submit(self, requests: Sequence[GenerationRequest], sampling: Any) -> None:
        self.submitted.append([each.prompt_ids[0] for each in requests])
        self.seeds |= {each.prompt_ids[0]: each.seed for each in requests}
        self.works += requests

    def step(self) -> StepOutput:
        one = self.works.pop()
        length = LENGTHS[one.prompt_ids[0]]
        rollouts = [
            Rollout([one.seed % 1000, *[n] * length], [-1.0] * (1 + length), "stop", 0, "") for n in (0, 1)
        ]
        return StepOutput([(one.number, rollouts)], 2)

    def cancel(self) -> None:
        self.works.clear()


class AlwaysMixed:
    def score(self, tasks: Sequence[RewardTask], progress: Any = None) -> list[Reward]:
        return [Reward(float(n % 2), float(n % 2), {}) for n, _ in enumerate(tasks)]


def source(longest_first: bool) -> tuple[OnlineSource, Recorded]:
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused"), "seed": 5},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}, "shuffle": False},
            "rollout": {"responses_per_prompt": 2},
            "algorithm": {"kind": "grpo"},
            "batch": {"prompts_per_step": 4, "prompts_per_update": 4, "longest_first": longest_first},
            "logging": {"progress": False},
        }
    )
    prompts = [Prompt(f"p/{i}", (i,), "", "", "test") for i in range(len(LENGTHS))]
    generator, sampler = Recorded(), OrderedSampler(len(prompts), seed=5, shuffle=False)
    made: Any = (config, prompts, sampler, generator, AlwaysMixed(), PhaseTimer())
    return OnlineSource(*made), generator


def test_a_step_starts_the_longest_first_and_trains_on_the_same(tmp_path: Path) -> None:
    (plain, as_drawn), (ours, ordered) = source(False), source(True)
    for step in (1, 2):
        assert plain.next(step, 0).groups == ours.next(step, 0).groups
        assert as_drawn.seeds == ordered.seeds
    assert as_drawn.submitted == [[0, 1, 2, 3]] * 2
    assert ordered.submitted == [[0, 1, 2, 3], [1, 3, 2, 0]], "of the first step nothing is known"
    assert "lengths" not in plain.state()
    ours.save(tmp_path, 2)
    again, resumed = source(True)
    again.restore(json.loads(json.dumps(ours.state())), tmp_path)
    assert again.next(3, 0).groups == ours.next(3, 0).groups
    assert resumed.submitted == ordered.submitted[2:] == [[1, 3, 2, 0]]


def test_a_checkpoint_made_without_lengths_can_be_resumed(tmp_path: Path) -> None:
    plain, _ = source(False)
    plain.next(1, 0)
    plain.save(tmp_path, 1)
    again, generator = source(True)
    again.restore(plain.state(), tmp_path)
    again.next(2, 0)
    assert generator.submitted == [[0, 1, 2, 3]]


@pytest.mark.parametrize("length", [0, 4])
def test_a_length_of_nothing_is_known_too(length: int) -> None:
    lengths = ExpectedLengths()
    lengths.learn([0], [group(length)])
    assert lengths.of(0) == length
