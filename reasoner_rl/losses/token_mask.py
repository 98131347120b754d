"""Which of the trained tokens matter: those of high entropy, where a response forks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def high_entropy_mask(entropies: Sequence[Tensor], masks: Sequence[Tensor], share: float) -> list[Tensor]:
    """Return for each response the tokens to keep [R] bool: the ``share`` of highest entropy over the whole batch.

    entropies: [R] each, in nats; where the mask is False they may hold anything.
    masks: [R] bool each, the tokens that may be trained.
    share: above 0, at most 1. Of n such tokens ceil(share * n) are kept (arXiv 2506.01939).

    Of equal entropies the earlier token is kept, by response and then by position, so that the number kept is exact.
    In the paper the tokens left out still count in the loss's denominator; a loss mask made of the result would leave
    them out of it too. Raises ValueError for another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of tokens to keep must be above 0 and at most 1; it is {share}")
    lengths = [len(mask) for mask in masks]
    allowed = torch.cat([torch.zeros(0, dtype=torch.bool), *masks])
    candidates = torch.cat([torch.zeros(0), *entropies])[allowed]
    # Rounded first: 0.07 * 100 is a little more than 7 in floating point.
    count = math.ceil(round(share * len(candidates), 6))
    chosen = torch.argsort(candidates, descending=True, stable=True)[:count]
    kept = torch.zeros_like(allowed)
    kept[allowed.nonzero()[chosen, 0]] = True
    return list(kept.split(lengths))
