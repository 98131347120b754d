"""Which logprobs samples carry, and KL in the reward. The worker group is a fake with fixed answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from reasoner_rl.loops.samples import make_samples
from torch import Tensor

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

ROLLOUT_LOGPROB, TRAINER_LOGPROB = -1.0, -2.0
VERSION = 5


class FakeWorkers:
    """Trainer logprobs are all -2; the reference's are -2 minus the response's first token."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, list[int]]] = []  # reference?, first tokens of the responses

    def logprobs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> list[Tensor]:
        first_tokens = [int(sample.response_ids[0]) for sample in samples]
        self.calls.append((reference, first_tokens))
        return [
            torch.full((len(s.response_ids),), TRAINER_LOGPROB - (int(s.response_ids[0]) if reference else 0))
            for s in samples
        ]


def group(version: int, first_tokens: Sequence[int], scores: Sequence[float]) -> ScoredGroup:
    return ScoredGroup(
        Prompt("p/0", (9,), "p", "1", "test"),
        tuple(
            Rollout((token, 1), (ROLLOUT_LOGPROB, ROLLOUT_LOGPROB), "stop", version, "")
            for token in first_tokens
        ),
        tuple(Reward(score, float(score > 0), {}) for score in scores),
    )


def run(
    groups: Sequence[ScoredGroup], loss: dict[str, Any], *, updates: int = 1, advantage: str = "group_mean"
) -> tuple[list[TrainSample], FakeWorkers]:
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "rollout": {"responses_per_prompt": 2},
            "algorithm": {"kind": "dapo", "loss": loss, "advantage": advantage},
            "batch": {"prompts_per_step": 2, "prompts_per_update": 2 // updates},
        }
    )
    workers: Any = FakeWorkers()
    return make_samples(groups, config, workers, VERSION, PhaseTimer()), workers


FRESH = [group(VERSION, [10, 11], [1, -1]), group(VERSION, [12, 13], [-1, 1])]
PARTLY_STALE = [group(VERSION - 1, [10, 11], [1, -1]), group(VERSION, [12, 13], [-1, 1])]


def old_logprobs(samples: Sequence[TrainSample]) -> list[list[float] | None]:
    return [None if s.old_logprobs is None else s.old_logprobs.tolist() for s in samples]


def test_one_update_needs_no_old_logprobs() -> None:
    samples, workers = run(FRESH, {})
    assert old_logprobs(samples) == [None] * 4
    assert workers.calls == []
    assert [float(sample.advantages[0]) for sample in samples] == [1, -1, -1, 1]


def test_several_updates_have_the_trainer_compute_them() -> None:
    samples, workers = run(FRESH, {}, updates=2)
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
    assert workers.calls == [(False, [10, 11, 12, 13])]


def test_they_can_be_asked_for() -> None:
    samples, workers = run(FRESH, {"old_logprobs": "recompute"})
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
    assert len(workers.calls) == 1


def test_those_of_generation_can_be_used_instead() -> None:
    samples, workers = run(FRESH, {"old_logprobs": "rollout"}, updates=2)
    assert old_logprobs(samples) == [[ROLLOUT_LOGPROB] * 2] * 4
    assert workers.calls == []


@pytest.mark.parametrize(("source", "updates"), [("auto", 1), ("auto", 2), ("recompute", 1)])
def test_a_stale_response_keeps_the_logprobs_it_was_sampled_with(source: str, updates: int) -> None:
    samples, workers = run(PARTLY_STALE, {"old_logprobs": source}, updates=updates)
    assert old_logprobs(samples) == [[ROLLOUT_LOGPROB] * 2] * 2 + [[TRAINER_LOGPROB] * 2] * 2
    assert workers.calls == [(False, [12, 13])], "only the fresh ones are computed"
    assert [sample.on_policy for sample in samples] == [False, False, True, True]


def test_kl_in_the_loss_brings_the_reference_and_leaves_the_advantage() -> None:
    samples, workers = run(FRESH, {"kl": {"coefficient": 0.5, "place": "loss"}})
    assert workers.calls == [(True, [10, 11, 12, 13])]
    references = [s.reference_logprobs.tolist() for s in samples if s.reference_logprobs is not None]
    assert references == [[-12.0] * 2, [-13.0] * 2, [-14.0] * 2, [-15.0] * 2]
    assert [float(sample.advantages[0]) for sample in samples] == [1, -1, -1, 1]


def test_kl_in_the_reward_lowers_the_advantage_of_who_strays() -> None:
    # k1 of a response: sum over its 2 tokens of (-2 - (-2 - first token)) = 2 x first token.
    samples, workers = run(FRESH, {"kl": {"coefficient": 0.1, "place": "reward", "estimator": "k1"}})
    assert workers.calls == [(False, [10, 11, 12, 13]), (True, [10, 11, 12, 13])]
    # scores less penalties: [1 - 2.0, -1 - 2.2] and [-1 - 2.4, 1 - 2.6]; then less the group's mean.
    expected = [1.1, -1.1, -0.9, 0.9]
    assert [float(s.advantages[0]) for s in samples] == pytest.approx(expected, abs=1e-6)
    assert all(torch.equal(s.advantages, s.advantages[:1].expand(2)) for s in samples)
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
