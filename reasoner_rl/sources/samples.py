"""From scored responses to training samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.types import Reward, Rollout, ScoredGroup, TrainSample, constant_column


def samples_of(
    groups: Sequence[ScoredGroup], version: int, weights: Sequence[float] | None = None
) -> list[TrainSample]:
    """One sample per response, group after group, without advantages as yet.

    A response whose reward says ``trained=False`` has its loss mask False throughout, and counts in its group's
    baseline all the same. ``version``: of the policy that is trained; responses of an earlier one are not on-policy.
    ``weights``: of each group, for its advantages; 1 if not given.
    """
    samples = []
    for number, (group, weight) in enumerate(zip(groups, weights or [1.0] * len(groups), strict=True)):
        prompt_ids = torch.tensor(group.prompt.token_ids, dtype=torch.int32)
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            samples.append(_sample(prompt_ids, rollout, reward, number, version, weight))
    return samples


def _sample(
    prompt_ids: Tensor, rollout: Rollout, reward: Reward, group: int, version: int, weight: float
) -> TrainSample:
    tokens = len(rollout.token_ids)
    return TrainSample(
        prompt_ids=prompt_ids,
        response_ids=_view(rollout.token_ids, torch.int32),
        loss_mask=constant_column(reward.trained, tokens),
        advantages=constant_column(0.0, tokens),
        rollout_logprobs=_view(rollout.logprobs, torch.float32),
        policy_version=rollout.policy_version,
        on_policy=rollout.policy_version == version and not rollout.switches,
        reward=reward.score,
        weight=weight,
        truncated=rollout.finish_reason == "length",
        group=group,
    )


def _view(numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
    """An array as a tensor, which shares its memory."""
    return torch.frombuffer(numbers, dtype=dtype) if len(numbers) else torch.empty(0, dtype=dtype)
