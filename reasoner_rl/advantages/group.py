"""Group-relative advantages: a response is judged against the other responses to its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reasoner_rl.errors import UserError
from reasoner_rl.types import Reward, Rollout, ScoredGroup, TrainSample

GroupAdvantage = Literal["group_std", "group_mean", "leave_one_out"]

_STD_FLOOR = 1e-6


def group_advantages(scores: Tensor, kind: GroupAdvantage) -> Tensor:
    """Return advantages [B, G] of the scores [B, G] of G responses to each of B prompts.

    group_std:      (score - group mean) / (group standard deviation + 1e-6), the deviation with G - 1 in its
                    denominator as in DAPO's code (GRPO, arXiv 2402.03300).
    group_mean:     score - group mean (Dr. GRPO, arXiv 2503.20783).
    leave_one_out:  score - mean of the others = G / (G - 1) * (score - group mean) (RLOO, arXiv 2402.14740).

    Raises UserError if G < 2: a lone response has nothing to be compared with.
    """
    responses = scores.shape[1]
    if responses < 2:
        raise UserError(
            f"advantage {kind!r} compares responses to one prompt: rollout.responses_per_prompt must be at "
            f"least 2, and a group has {responses}"
        )
    centred = scores - scores.mean(1, keepdim=True)
    if kind == "group_std":
        return centred / (scores.std(1, keepdim=True) + _STD_FLOOR)
    if kind == "leave_one_out":
        return centred * (responses / (responses - 1))
    return centred


def assign(
    groups: Sequence[ScoredGroup],
    kind: GroupAdvantage,
    penalties: Sequence[Sequence[float]] | None = None,
) -> list[TrainSample]:
    """Turn groups into training samples, one a response, group after group.

    penalties: [groups][G], subtracted from the scores before the advantage (KL in the reward).

    Every token of a response has its response's advantage. A response whose reward says ``trained=False`` has
    its loss mask False throughout, yet counts in its group's baseline. Raises UserError for a group of one.
    """
    if penalties is None:
        penalties = [[0.0] * len(group.rewards) for group in groups]
    samples: list[TrainSample] = []
    for group, penalty in zip(groups, penalties, strict=True):
        # In float64 a group of equal scores has deviations that stay far below the floor of the deviation.
        scores = torch.tensor(
            [reward.score - amount for reward, amount in zip(group.rewards, penalty, strict=True)],
            dtype=torch.float64,
        )
        advantages = group_advantages(scores[None], kind)[0].tolist()
        prompt_ids = torch.tensor(group.prompt.token_ids, dtype=torch.int64)
        samples += [
            _sample(prompt_ids, rollout, reward, advantage)
            for rollout, reward, advantage in zip(group.rollouts, group.rewards, advantages, strict=True)
        ]
    return samples


def _sample(prompt_ids: Tensor, rollout: Rollout, reward: Reward, advantage: float) -> TrainSample:
    tokens = len(rollout.token_ids)
    return TrainSample(
        prompt_ids=prompt_ids,
        response_ids=torch.tensor(rollout.token_ids, dtype=torch.int64),
        loss_mask=torch.full((tokens,), reward.trained),
        advantages=torch.full((tokens,), advantage, dtype=torch.float32),
        rollout_logprobs=torch.tensor(rollout.logprobs, dtype=torch.float32),
        policy_version=rollout.policy_version,
    )
