"""Generalised advantage estimation (arXiv 1506.02438) over the valid tokens of responses, and VAPO's options for it.

With values V_t of the state before token t, delta_t = r_t + gamma V_{t+1} - V_t, and A_t is the sum over l >= 0 of
(gamma lambda)^l delta_{t+l}. After the last valid token V is ``bootstrap``: 0 where the response ended there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.advantages.discounting import discounted_sums
from reasoner_rl.advantages.statistics import whiten
from reasoner_rl.config.ppo import GaeConfig


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: float = 0.0
) -> Tensor:
    """Return the advantages [R] float32 of one response.

    rewards, values: [R], in units of the reward; where the mask [R] bool is False they may hold anything, and such
    tokens are skipped: they add no delta, do not discount, and get 0. bootstrap: the value after the last valid token.
    """
    return batch_gae([rewards], [values], [mask], gamma, [lam], [bootstrap])[0]


def batch_gae(
    rewards: Sequence[Tensor],
    values: Sequence[Tensor],
    masks: Sequence[Tensor],
    gamma: float,
    lams: Sequence[float],
    bootstraps: Sequence[float],
) -> list[Tensor]:
    """Return `gae` of each response of a batch, each with its lambda and its value after the last valid token."""
    deltas = [
        _deltas(reward, value, mask, gamma, bootstrap)
        for reward, value, mask, bootstrap in zip(rewards, values, masks, bootstraps, strict=True)
    ]
    return [sums.float() for sums in discounted_sums(deltas, masks, [gamma * lam for lam in lams])]


def advantages_and_returns(
    rewards: Sequence[Tensor],
    values: Sequence[Tensor],
    masks: Sequence[Tensor],
    truncated: Sequence[bool],
    config: GaeConfig,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the advantages and the returns, [R] float32 each, of a whole batch of responses; 0 where not valid.

    Returns are values + advantages by the critic's lambda, before whitening. The policy's advantages have a lambda of
    their own (decoupled, VAPO, arXiv 2504.05118), which may depend on the response's length, and are whitened over the
    valid tokens of the batch if ``config.whiten``. truncated: the responses that were cut off; only they are
    bootstrapped, and only if ``config.bootstrap_truncated``.
    """
    bootstraps = [
        last_value(value, mask) if cut and config.bootstrap_truncated else 0.0
        for value, mask, cut in zip(values, masks, truncated, strict=True)
    ]
    critic_lam = config.lam if config.critic_lam is None else config.critic_lam
    by_critic = batch_gae(rewards, values, masks, config.gamma, [critic_lam] * len(masks), bootstraps)
    returns = [
        torch.where(mask, value + advantage, 0.0)
        for value, mask, advantage in zip(values, masks, by_critic, strict=True)
    ]
    lams = [policy_lambda(config, int(mask.sum())) for mask in masks]
    advantages = (
        by_critic
        if all(lam == critic_lam for lam in lams)
        else batch_gae(rewards, values, masks, config.gamma, lams, bootstraps)
    )
    return whiten(advantages, masks) if config.whiten else advantages, returns


def policy_lambda(config: GaeConfig, length: int) -> float:
    """Return the lambda of the policy's advantages for a response of ``length`` valid tokens.

    Length-adaptive (VAPO, arXiv 2504.05118): 1 - 1 / (alpha * length), and 0 where that is negative, so that the
    weights of the deltas add up to alpha * length.
    """
    if config.length_adaptive_alpha is None:
        return config.lam
    return max(0.0, 1 - 1 / (config.length_adaptive_alpha * max(length, 1)))


def last_value(values: Tensor, mask: Tensor) -> float:
    """Return the value [R] of the state before the last valid token; 0 if there is none.

    It stands in for the value after that token, which the critic does not compute: it has one value before each token.
    """
    valid = values[mask]
    return valid[-1].item() if len(valid) else 0.0


def _deltas(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, bootstrap: float) -> Tensor:
    """The temporal differences [R] float64; 0 where not valid."""
    now = values[mask].double()
    following = torch.cat([now[1:], now.new_full((min(len(now), 1),), bootstrap)])
    deltas = torch.zeros(len(mask), dtype=torch.float64)
    deltas[mask] = rewards[mask].double() + gamma * following - now
    return deltas
