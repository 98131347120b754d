"""REINFORCE++ (arXiv 2501.03262): no critic; advantages are whitened over the whole batch, not within a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from reasoner_rl.advantages.discounting import discounted_sums
from reasoner_rl.advantages.statistics import whiten


def reinforce_plus_plus(
    rewards: Sequence[Tensor], masks: Sequence[Tensor], gamma: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Return advantages and returns, [R] float32 each, from rewards [R] of each response; 0 where not valid.

    The return of token t is the sum of gamma^(u - t) r_u over the valid tokens u from t on: the score at the last
    token minus the KL penalties on the way (see `token_rewards`). The advantage is the return whitened over the valid
    tokens of the batch. Tokens whose mask [R] bool is False are skipped and do not discount.
    """
    returns = [sums.float() for sums in discounted_sums(rewards, masks, [gamma] * len(masks))]
    return whiten(returns, masks), returns


def reinforce_plus_plus_baseline(
    scores: Sequence[float], groups: Sequence[Hashable], masks: Sequence[Tensor]
) -> list[Tensor]:
    """Return the advantages [R] float32 of each response: its score minus its group's mean, whitened over the batch.

    scores: one per response. groups: responses with the same number answer the same prompt; a lone response keeps its
    score, as in verl, and is compared with the batch only. masks: [R] bool; elsewhere the advantage is 0. A response
    without valid tokens counts in its group's mean, not in the whitening.
    """
    members: dict[Hashable, list[float]] = defaultdict(list)
    for score, group in zip(scores, groups, strict=True):
        members[group].append(score)
    baselines = {group: sum(own) / len(own) if len(own) > 1 else 0.0 for group, own in members.items()}
    centred = [
        torch.full((len(mask),), score - baselines[group], dtype=torch.float64)
        for score, group, mask in zip(scores, groups, masks, strict=True)
    ]
    return whiten(centred, masks)
