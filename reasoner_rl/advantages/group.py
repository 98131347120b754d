"""Group-relative advantages: a response is judged against the other responses to its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.errors import UserError

_STD_FLOOR = 1e-6


def group_advantages(scores: Tensor, kind: str) -> Tensor:
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


def advantages_in_groups(scores: Sequence[float], groups: Sequence[int], kind: str) -> list[float]:
    """Return the advantage of each response, in order, within its group.

    scores, groups: of each response. Groups may differ in size. Raises UserError for a group of one.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    found = [0.0] * len(scores)
    for indices in members.values():
        # In float64 a group of equal scores has deviations that stay far below the floor of the deviation.
        chosen = torch.tensor([scores[index] for index in indices], dtype=torch.float64)
        for index, advantage in zip(indices, group_advantages(chosen[None], kind)[0].tolist(), strict=True):
            found[index] = advantage
    return found
