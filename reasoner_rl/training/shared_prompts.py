"""Computing a prompt once for all responses to it that are in the same micro-batch.

Under a causal mask the hidden states of a prompt do not depend on the response after it, so a group's prompt needs
one pass, not one per response; responses then attend to keys and values of the one copy. The result is the same up to
rounding; adapters' dropout is drawn once for all copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reasoner_rl.types import MicroBatch


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """Which of a micro-batch's T tokens are computed, and which computed token stands for each of the T."""

    kept: Tensor  # [K] int64, ascending, indices into the T tokens
    stand_ins: Tensor  # [T] int64, indices into the K tokens

    @classmethod
    def of(cls, batch: MicroBatch) -> SharedPrompts | None:
        """Find the prompts that occur more than once; None if there are none."""
        bounds = batch.cu_seqlens.tolist()
        responses = torch.bincount(batch.sequence_ids, minlength=batch.sequences).tolist()
        tokens = batch.input_ids.tolist()
        places = torch.arange(len(tokens))
        originals = places.clone()
        first_starts: dict[tuple[int, ...], int] = {}
        for (start, end), response in zip(pairwise(bounds), responses, strict=True):
            prompt = end - start - response
            first = first_starts.setdefault(tuple(tokens[start : start + prompt]), start)
            originals[start : start + prompt] -= start - first
        computed = originals == places
        if computed.all():
            return None
        stand_ins = (computed.cumsum(0) - 1)[originals]
        device = batch.input_ids.device
        return cls(computed.nonzero().flatten().to(device), stand_ins.to(device))
