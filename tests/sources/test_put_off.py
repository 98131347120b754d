"""Responses that are put off: which prompts are trained on and when, what their tokens are, and that none is lost."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from known_lengths import LIMIT, Run

from reasoner_rl.metrics import values
from reasoner_rl.sources.base import StepBatch


def indices(batch: StepBatch) -> list[int]:
    return [group.prompt.token_ids[0] for group in batch.groups]


LENGTHS = [90 if i % 4 == 1 else 150 if i % 13 == 7 else 10 for i in range(400)]
RULES = [
    {"budget_tokens": 20, "until": "next_step"},
    {"budget_tokens": 20, "until": "long_round"},
    {"budget_tokens": 20, "until": "long_round", "long_round_prompts": 7},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at_a_time", [4, 9])
def test_every_prompt_is_trained_on_once_whatever_its_length(rule: dict[str, Any], at_a_time: int) -> None:
    """After some steps: what was trained on, dropped, put off or is surplus are the first prompts of the stream."""
    run = Run(LENGTHS, rule, prompts_per_generation=at_a_time)
    trained, dropped = Counter[int](), Counter[int]()
    for step in range(1, 41):
        batch = run.step(step)
        assert len(batch.groups) == 4
        trained.update(indices(batch))
        dropped.update(group.prompt.token_ids[0] for group in batch.dropped)
    waiting = [launch.index for launch in run.source._put_off]
    surplus = [group.prompt.token_ids[0] for group in run.source._surplus]
    met = [*trained.elements(), *dropped.elements(), *waiting, *surplus]
    assert sorted(met) == list(range(len(met))), "each once, and none left out"
    assert all(index % 5 == 4 for index in dropped)
    long = sum(length > 20 for length in LENGTHS[: len(met)])
    behind = sum(LENGTHS[index] > 20 for index in waiting)
    assert behind <= 12
    assert sum(LENGTHS[index] > 20 for index in [*trained, *dropped, *surplus]) == long - behind


def test_only_long_rounds_wait_for_long_responses() -> None:
    run = Run(LENGTHS, RULES[1], prompts_per_generation=9)
    waits = []
    for step in range(1, 41):
        batch = run.step(step)
        waits.append(run.writer.longest)
        groups = [*batch.groups, *batch.dropped, *run.source._surplus]
        continued = [r.latest_version for group in groups for r in group.rollouts if r.switches]
        assert (run.writer.longest > 20) == (step - 1 in continued)
    assert waits[0] == 20
    assert 4 < sum(wait > 20 for wait in waits) < 16
    plain = Run(LENGTHS, None)
    unlimited = [plain.step(step) and plain.writer.longest for step in range(1, 41)]
    assert sum(wait > 20 for wait in unlimited) > 30, "without, nearly every step waits for one"


@pytest.mark.parametrize("rule", RULES)
def test_tokens_are_kept_with_the_policy_that_drew_them(rule: dict[str, Any]) -> None:
    run = Run(LENGTHS, rule)
    spans = Counter[int]()
    for step in range(1, 31):
        for group in run.step(step).groups:
            first, second = group.rollouts
            length = LENGTHS[group.prompt.token_ids[0]]
            assert list(first.token_ids) == list(range(min(length, LIMIT)))
            assert first.finish_reason == ("length" if length > LIMIT else "stop")
            versions = [-logprob for logprob in first.logprobs]
            assert versions[0] == first.policy_version
            found = [(i, int(v)) for i, v in enumerate(versions) if i and v != versions[i - 1]]
            assert list(first.switches) == found
            assert (second.token_ids[-1], second.switches, second.policy_version) == (
                2,
                (),
                first.policy_version,
            )
            spans[len(first.switches)] += 1
    assert set(spans) == ({0, 4} if rule["until"] == "next_step" else {0, 1})


@pytest.mark.parametrize("rule", RULES)
def test_samples_of_several_policies_are_not_on_policy(rule: dict[str, Any]) -> None:
    run = Run(LENGTHS, rule)
    for step in range(1, 12):
        batch = run.step(step)
        for sample in batch.samples:
            drawn_now = bool((sample.rollout_logprobs == -(step - 1)).all())
            assert sample.on_policy == drawn_now
            assert sample.policy_version == -sample.rollout_logprobs[0]


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_filled_where_every_response_is_long(rule: dict[str, Any]) -> None:
    """The first 2 x 4 prompts are put off, and the following ones are answered to their ends."""
    run = Run([90] * 200, rule)
    batch = run.step(1)
    assert indices(batch) == [8, 10, 11, 12]
    assert values(batch.metrics)["groups/put_off"] == 8
    for step in range(2, 20):
        assert len(run.step(step).groups) == 4
        assert len(run.source._put_off) < 8 + rule.get("long_round_prompts", 4)


def test_tokens_count_in_the_step_that_draws_them() -> None:
    run = Run(LENGTHS, RULES[0], max_staleness=1)
    counted = sum(run.step(step).generated_tokens for step in range(1, 31))
    waiting = sum(launch.tokens for launch in run.source._put_off)
    # Every group is met once in all (see above), with min(length, LIMIT) and 3 tokens.
    run = Run(LENGTHS, RULES[0], max_staleness=1)
    whole = 0
    for step in range(1, 31):
        batch = run.step(step)
        whole += sum(len(r.token_ids) for group in [*batch.groups, *batch.dropped] for r in group.rollouts)
    whole += sum(len(r.token_ids) for group in run.source._surplus for r in group.rollouts)
    assert counted == whole + waiting


@pytest.mark.parametrize("rule", RULES)
def test_what_is_trained_on_does_not_depend_on_timing(rule: dict[str, Any]) -> None:
    def batches(finish: Callable[[int], int], max_staleness: int) -> list[Any]:
        run = Run(LENGTHS, rule, prompts_per_generation=6, max_staleness=max_staleness)
        run.writer.finish = finish
        found = [run.step(step) for step in range(1, 15)]
        return [[(b.groups, values(b.metrics)["groups/put_off"]) for b in found], run.source.state()]

    shuffle = random.Random(0)
    for max_staleness in (0, 1):
        in_order = batches(lambda waiting: 0, max_staleness)
        assert batches(lambda waiting: waiting - 1, max_staleness) == in_order
        assert batches(lambda waiting: shuffle.randrange(waiting), max_staleness) == in_order


@pytest.mark.parametrize("rule", RULES)
def test_what_was_put_off_is_in_checkpoints(rule: dict[str, Any], tmp_path: Path) -> None:
    first, second = Run(LENGTHS, rule), Run(LENGTHS, rule)
    for step in (1, 2, 3):
        first.step(step)
    assert first.source._put_off
    first.source.save(tmp_path, 3)
    second.source.restore(json.loads(json.dumps(first.source.state())), tmp_path)
    for step in range(4, 12):
        assert first.step(step).groups == second.step(step).groups
    assert first.source.state() == second.source.state()
