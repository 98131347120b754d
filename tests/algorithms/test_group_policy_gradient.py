"""Which logprobs samples carry, and KL in the reward. The models are fakes with fixed answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.metrics import Metrics, values
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

ROLLOUT_LOGPROB, TRAINER_LOGPROB = -1.0, -2.0
VERSION = 5


Calls = list[tuple[bool, list[int]]]  # reference?, first tokens of the responses


class FakeModel:
    """The policy's logprobs are all -2; the reference's are -2 minus the response's first token."""

    def __init__(self, calls: Calls, *, reference: bool) -> None:
        self._calls, self._reference = calls, reference

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        first_tokens = [int(sample.response_ids[0]) for sample in samples]
        self._calls.append((self._reference, first_tokens))
        return [
            torch.full((len(s.response_ids),), TRAINER_LOGPROB - (token if self._reference else 0))
            for s, token in zip(samples, first_tokens, strict=True)
        ]

    def update(self, samples: Sequence[TrainSample], next_examples: Any = None) -> Metrics:
        raise AssertionError("nothing is trained while samples are prepared")


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
    groups: Sequence[ScoredGroup], loss: dict[str, Any], *, updates: int = 1, **algorithm: Any
) -> tuple[list[TrainSample], Calls]:
    """Prepare the groups' samples; the metrics that come with them must be none."""
    samples, calls, measured = prepare(groups, updates, {"loss": loss, **algorithm})
    assert measured == {}
    return samples, calls


def prepare(
    groups: Sequence[ScoredGroup], updates: int, algorithm: dict[str, Any]
) -> tuple[list[TrainSample], Calls, dict[str, float]]:
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "rollout": {"responses_per_prompt": 2},
            "algorithm": {"kind": "dapo", "advantage": "group_mean", **algorithm},
            "batch": {"prompts_per_step": 2, "prompts_per_update": 2 // updates},
        }
    )
    built, calls = build_algorithm(config), Calls()
    reference = FakeModel(calls, reference=True) if "reference" in built.roles else None
    models = Models(FakeModel(calls, reference=False), reference)
    samples, measured = built.prepare(samples_of(groups, VERSION), models)
    return samples, calls, values(measured)


FRESH = [group(VERSION, [10, 11], [1, -1]), group(VERSION, [12, 13], [-1, 1])]
PARTLY_STALE = [group(VERSION - 1, [10, 11], [1, -1]), group(VERSION, [12, 13], [-1, 1])]


def old_logprobs(samples: Sequence[TrainSample]) -> list[list[float] | None]:
    return [None if s.old_logprobs is None else s.old_logprobs.tolist() for s in samples]


def test_one_update_needs_no_old_logprobs() -> None:
    samples, calls = run(FRESH, {})
    assert old_logprobs(samples) == [None] * 4
    assert calls == []
    assert [float(sample.advantages[0]) for sample in samples] == [1, -1, -1, 1]


def test_several_updates_have_the_trainer_compute_them() -> None:
    samples, calls = run(FRESH, {}, updates=2)
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
    assert calls == [(False, [10, 11, 12, 13])]


def test_they_can_be_asked_for() -> None:
    samples, calls = run(FRESH, {"old_logprobs": "recompute"})
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
    assert len(calls) == 1


def test_those_of_generation_can_be_used_instead() -> None:
    samples, calls = run(FRESH, {"old_logprobs": "rollout"}, updates=2)
    assert old_logprobs(samples) == [[ROLLOUT_LOGPROB] * 2] * 4
    assert calls == []


@pytest.mark.parametrize(("source", "updates"), [("auto", 1), ("auto", 2), ("recompute", 1)])
def test_a_stale_response_keeps_the_logprobs_it_was_sampled_with(source: str, updates: int) -> None:
    samples, calls = run(PARTLY_STALE, {"old_logprobs": source}, updates=updates)
    assert old_logprobs(samples) == [[ROLLOUT_LOGPROB] * 2] * 2 + [[TRAINER_LOGPROB] * 2] * 2
    assert calls == [(False, [12, 13])], "only the fresh ones are computed"
    assert [sample.on_policy for sample in samples] == [False, False, True, True]


def test_decoupled_a_stale_response_is_compared_with_the_present_policy_like_any_other() -> None:
    """The importance weight, exp(-2 + 1) here, makes up for the policy that drew it."""
    decoupled = {"stale_old_logprobs": "trainer", "importance_sampling": {"kind": "truncated"}}
    samples, calls = run(PARTLY_STALE, decoupled, updates=2)
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
    assert [len(tokens) for _, tokens in calls] == [4]
    samples, calls = run(PARTLY_STALE, decoupled, updates=1)
    assert [sample.old_logprobs for sample in samples] == [None] * 4, (
        "every ratio is 1, and weights come from the update"
    )
    assert calls == []


def test_kl_in_the_loss_brings_the_reference_and_leaves_the_advantage() -> None:
    samples, calls = run(FRESH, {"kl": {"coefficient": 0.5}})
    assert calls == [(True, [10, 11, 12, 13])]
    references = [s.reference_logprobs.tolist() for s in samples if s.reference_logprobs is not None]
    assert references == [[-12.0] * 2, [-13.0] * 2, [-14.0] * 2, [-15.0] * 2]
    assert [float(sample.advantages[0]) for sample in samples] == [1, -1, -1, 1]


def test_kl_in_the_reward_lowers_the_advantage_of_who_strays() -> None:
    # k1 of a response: sum over its 2 tokens of (-2 - (-2 - first token)) = 2 x first token.
    kl = {"coefficient": 0.1, "estimator": "k1"}
    samples, calls, measured = prepare(FRESH, 1, {"kl_in_reward": kl})
    assert calls == [(True, [10, 11, 12, 13]), (False, [10, 11, 12, 13])], (
        "the policy last: it is updated next"
    )
    assert measured == pytest.approx({"reward/kl": 11.5, "reward/kl_coefficient": 0.1})
    # scores less penalties: [1 - 2.0, -1 - 2.2] and [-1 - 2.4, 1 - 2.6]; then less the group's mean.
    expected = [1.1, -1.1, -0.9, 0.9]
    assert [float(s.advantages[0]) for s in samples] == pytest.approx(expected, abs=1e-6)
    assert all(torch.equal(s.advantages, s.advantages[:1].expand(2)) for s in samples)
    assert old_logprobs(samples) == [[TRAINER_LOGPROB] * 2] * 4
