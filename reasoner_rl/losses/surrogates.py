"""The policy-gradient objectives, token by token: clipped (PPO, GRPO, DAPO, GSPO), CISPO and GMPO."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.losses.reduce import bounded_exp, sequence_means
from reasoner_rl.types import MicroBatch


class Surrogate(NamedTuple):
    """The losses of N response tokens and what there is to observe of them."""

    losses: Tensor  # [N], to minimise
    ratio: Tensor  # [N], policy / old policy; of the token or of its response, as the objective has it
    clipped_low: Tensor  # [N] bool: the lower bound stopped the gradient (CISPO: raised the weight)
    clipped_high: Tensor  # [N] bool: the upper bound stopped the gradient (CISPO: lowered the weight)


def policy_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, batch: MicroBatch, config: LossConfig
) -> Surrogate:
    """Return the losses of the objective that ``config.objective`` names, for logprobs [N] and old logprobs [N]."""
    if config.objective == "gmpo":
        return geometric_mean_surrogate(logprobs, old_logprobs, batch, config)
    ratio = importance_ratio(logprobs, old_logprobs, batch, config)
    low, high = ratio < 1 - config.clip_low, ratio > 1 + config.clip_high
    if config.objective == "cispo":
        return Surrogate(weighted_surrogate(ratio, logprobs, batch.advantages, config), ratio, low, high)
    losses = clipped_surrogate(ratio, batch.advantages, config)
    return Surrogate(losses, ratio, (batch.advantages < 0) & low, (batch.advantages > 0) & high)


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, batch: MicroBatch, config: LossConfig) -> Tensor:
    """Return policy / old policy [N], a token's own or its response's.

    A response's ratio is the geometric mean of its tokens' (GSPO, arXiv 2507.18071), in the form GSPO-token:
    each token carries the response's value and its own logprob's gradient.
    """
    log_ratio = logprobs - old_logprobs
    if config.ratio == "sequence":
        log_ratio = sequence_means(log_ratio.detach(), batch) + logprobs - logprobs.detach()
    return bounded_exp(log_ratio)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of each token [N]: max(-A r, -A clip(r)), and for A < 0 at most -A times the dual clip.

    PPO (arXiv 1707.06347). Without the dual clip (arXiv 1912.09729), a token with A < 0 that became likelier has an
    unbounded loss.
    """
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if config.dual_clip is None:
        return losses
    return torch.where(advantages < 0, torch.minimum(losses, -advantages * config.dual_clip), losses)


def weighted_surrogate(ratio: Tensor, logprobs: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of each token [N]: -stop_gradient(clip(r, 1 - low, 1 + high)) A logprob.

    CISPO (arXiv 2506.13585): the ratio is a bounded weight, and every token keeps its gradient, also where the ratio
    is out of bounds. The value of the loss depends on the logprobs' level and means little; its gradient counts.
    """
    weights = ratio.detach().clamp(1 - config.clip_low, 1 + config.clip_high)
    return -weights * advantages * logprobs


def geometric_mean_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, batch: MicroBatch, config: LossConfig
) -> Surrogate:
    """Return -A times the geometric mean of the response's clipped token ratios, for each token [N].

    GMPO (arXiv 2507.20673). With d = logprob - old logprob, a token's log-ratio is min(d, clip_high) where A > 0 and
    max(d, -clip_low) where A < 0, so bounds are in nats. Each token carries its response's value and its own
    logprob's gradient: averaged over a response's trained tokens, value and gradient are those of the paper's loss of
    a response, if all its tokens have one advantage.
    """
    difference, advantages = logprobs - old_logprobs, batch.advantages
    bounded = torch.where(
        advantages > 0, difference.clamp(max=config.clip_high), difference.clamp(min=-config.clip_low)
    )
    ratio = bounded_exp(sequence_means(bounded.detach(), batch) + (bounded - bounded.detach()))
    low = (advantages < 0) & (difference < -config.clip_low)
    high = (advantages > 0) & (difference > config.clip_high)
    return Surrogate(-advantages * ratio, ratio, low, high)
