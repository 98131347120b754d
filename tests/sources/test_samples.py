"""From scored groups to samples, and the advantages that a group-relative algorithm gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.config.algorithm import RlooConfig
from reasoner_rl.errors import UserError
from reasoner_rl.metrics import Metrics
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.types import ScoredGroup, TrainSample

MakeGroup = Callable[..., ScoredGroup]


class Silent:
    """A policy that nothing is to be asked of."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Any]:
        assert not samples, "logprobs of the trainer are not needed"
        return []

    def update(self, samples: Sequence[TrainSample], next_examples: Any = None) -> Metrics:
        raise AssertionError("nothing is trained while samples are prepared")


def prepared(groups: Sequence[ScoredGroup]) -> list[TrainSample]:
    """The samples with the advantages score - mean of the group; the ratio is one, so that no logprobs are needed."""
    config = RlooConfig.model_validate({"advantage": "group_mean", "loss": {"old_logprobs": "rollout"}})
    return (
        GroupPolicyGradient(config, updates_per_step=1)
        .prepare(samples_of(groups, 0), Models(Silent()))
        .samples
    )


def test_one_sample_a_response_in_order(scored_group: MakeGroup) -> None:
    groups = [
        scored_group([1.0, 0.0], prompt_ids=(1, 2, 3), version=4),
        scored_group([0.0, 0.0, 3.0], prompt_ids=(9,)),
    ]
    samples = samples_of(groups, version=1)
    assert [sample.prompt_ids.tolist() for sample in samples] == [[1, 2, 3]] * 2 + [[9]] * 3
    assert [sample.response_ids.tolist() for sample in samples] == [
        [10],
        [10, 11],
        [10],
        [10, 11],
        [10, 11, 12],
    ]
    assert samples[1].rollout_logprobs.tolist() == [-0.5, -1.0]
    assert [sample.policy_version for sample in samples] == [4, 5, 0, 1, 2]
    assert [sample.on_policy for sample in samples] == [False, False, False, True, False]
    assert [sample.reward for sample in samples] == [1.0, 0.0, 0.0, 0.0, 3.0]
    assert [sample.group for sample in samples] == [0, 0, 1, 1, 1]
    assert not any(sample.truncated for sample in samples)
    assert all(sample.loss_mask.all() and sample.old_logprobs is None for sample in samples)
    assert samples[0].prompt_ids.dtype == samples[0].response_ids.dtype == torch.int32
    assert samples[0].rollout_logprobs.dtype == torch.float32
    assert samples[0].loss_mask.dtype == torch.bool
    assert [sample.advantages.tolist() for sample in prepared(groups)] == [
        [0.5],
        [-0.5, -0.5],
        [-1.0],
        [-1.0, -1.0],
        [2.0, 2.0, 2.0],
    ]
    assert prepared(groups)[0].advantages.dtype == torch.float32


def test_an_untrained_response_is_masked_but_stays_in_the_baseline(scored_group: MakeGroup) -> None:
    samples = prepared([scored_group([1.0, 0.0, 0.5], trained=[True, False, True])])
    assert [sample.loss_mask.tolist() for sample in samples] == [[True], [False, False], [True, True, True]]
    assert samples[0].advantages.tolist() == [0.5]


def test_the_penalty_for_length_is_in_the_reward(scored_group: MakeGroup) -> None:
    samples = prepared([scored_group([1.0, 1.0], penalties=[0.0, -0.5])])
    assert [sample.reward for sample in samples] == [1.0, 0.5]
    assert [sample.advantages[0].item() for sample in samples] == [0.25, -0.25]


def test_a_group_of_one_is_refused(scored_group: MakeGroup) -> None:
    with pytest.raises(UserError, match="and a group has 1"):
        prepared([scored_group([1.0, 0.0]), scored_group([1.0])])
