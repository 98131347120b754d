"""Rewards token by token: a response's score at its end, and the price of leaving the reference on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_rewards(score: float, mask: Tensor, kl_penalties: Tensor | None = None) -> Tensor:
    """Return the reward of each token [R] float32: -penalty, and the score besides at the last valid token.

    mask: [R] bool; elsewhere the reward is 0 and the penalty may hold anything. kl_penalties: [R], in units of the
    score: coefficient * `kl_estimate` of the policy that sampled against the reference. A response without valid
    tokens has no reward at all.
    """
    rewards = torch.zeros(len(mask), dtype=torch.float32)
    if kl_penalties is not None:
        rewards = torch.where(mask, -kl_penalties.float(), rewards)
    valid = mask.nonzero()[:, 0]
    if len(valid):
        rewards[valid[-1]] += score
    return rewards


def mean_kl(estimates: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Return the mean over responses of the mean KL estimate [R] of their valid tokens, in nats per token.

    This is what the controller of the coefficient compares with its target, in verl too, except that verl counts
    responses without valid tokens as 0 and here they are left out. 0 if all are.
    """
    means = [
        estimate[mask].double().mean().item()
        for estimate, mask in zip(estimates, masks, strict=True)
        if mask.any()
    ]
    return sum(means) / len(means) if means else 0.0
