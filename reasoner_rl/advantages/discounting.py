"""Discounted sums over the rest of a response, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

_RESPONSES_AT_ONCE = 512  # bounds the padded copy: 80 MB at 20,000 tokens per response


@torch.no_grad()
def discounted_sums(
    terms: Sequence[Tensor], masks: Sequence[Tensor], discounts: Sequence[float]
) -> list[Tensor]:
    """Return S [R] float64 of each response: S_t = x_t + discount * S_u, where u is the next valid token after t.

    terms: x, [R] each; where the mask is False they may hold anything.
    masks: [R] bool each. Tokens that are not valid are skipped: they add nothing, do not discount, and get 0.
    discounts: one factor per response.
    """
    valid = [term[mask].double() for term, mask in zip(terms, masks, strict=True)]
    sums = [torch.zeros(len(mask), dtype=torch.float64) for mask in masks]
    # Responses of like length stand together, so that little is padded.
    order = sorted(range(len(valid)), key=lambda index: len(valid[index]))
    for start in range(0, len(order), _RESPONSES_AT_ONCE):
        chosen = order[start : start + _RESPONSES_AT_ONCE]
        # Last token first, [longest, responses], so that the padding follows and never enters a sum.
        padded = torch.nn.utils.rnn.pad_sequence([valid[index].flip(0) for index in chosen])
        factors = torch.tensor([discounts[index] for index in chosen], dtype=torch.float64)
        for later, row in pairwise(padded):
            row.addcmul_(factors, later)
        for index, column in zip(chosen, padded.T, strict=True):
            sums[index][masks[index]] = column[: len(valid[index])].flip(0)
    return sums
