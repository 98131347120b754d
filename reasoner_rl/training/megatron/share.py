"""The part of a micro-batch that a rank reads: all of it, or with context parallelism a part of every sequence.

Rank r of n reads the r-th and the r-th last of 2n equal pieces of each sequence (the layout that TransformerEngine's
attention expects): under a causal mask early tokens see little and late ones much, so all ranks have the same work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from reasoner_rl.types import MicroBatch


class Share(NamedTuple):
    """What this rank reads of a micro-batch with N response tokens, and which M of those it predicts."""

    input_ids: Tensor  # [1, T / ranks] int64, padding included
    position_ids: Tensor  # [1, T / ranks] int64
    packed: PackedSeqParams  # bounds of the whole padded sequences
    predictors: Tensor  # [M] int64, indices into this rank's tokens
    predicted: Tensor  # [M] int64, indices into the N response tokens


def share_of(batch: MicroBatch) -> Share:
    """Pad as the ranks need it and take this rank's tokens.

    Context parallelism divides each sequence into equal pieces; sequence parallelism gives each tensor-parallel rank as
    many tokens as any other, so one more sequence of padding may stand at the end. No real token sees padding, which
    is after it or in another sequence.
    """
    ranks, device = parallel_state.get_context_parallel_world_size(), batch.input_ids.device
    piece = 2 * ranks if ranks > 1 else 1
    bounds = batch.cu_seqlens.long()
    lengths = bounds.diff()
    padded = (lengths + piece - 1) // piece * piece
    rest = -int(padded.sum()) % (piece * parallel_state.get_tensor_model_parallel_world_size())
    if rest:
        padded = F.pad(padded, (0, 1), value=rest)
    starts = F.pad(padded.cumsum(0), (1, 0))
    total = int(starts[-1])
    places = torch.arange(len(batch.input_ids), device=device)
    places += torch.repeat_interleave(starts[: len(lengths)] - bounds[:-1], lengths)
    ids = batch.input_ids.new_zeros(total).index_copy(0, places, batch.input_ids)
    positions = torch.arange(total, device=device) - torch.repeat_interleave(starts[:-1], padded)
    own = own_tokens(starts.tolist(), parallel_state.get_context_parallel_rank(), ranks).to(device)
    here = torch.full((total,), -1, device=device).index_copy(0, own, torch.arange(len(own), device=device))
    predictors = here[places[batch.predictors]]
    predicted = (predictors >= 0).nonzero()[:, 0]
    cu_seqlens, longest = starts.to(torch.int32), int(padded.max())
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
    return Share(ids[own][None], positions[own][None], packed, predictors[predicted], predicted)


def stretches(bounds: Sequence[int], rank: int, ranks: int) -> Iterator[tuple[int, int, int]]:
    """Yield where a context-parallel rank's tokens begin and end, in its order, each after its sequence's beginning.

    bounds: of S sequences, each with a length that is a multiple of 2 x ranks, unless there is one rank.
    """
    for start, end in pairwise(bounds):
        if ranks == 1:
            yield start, start, end
        else:
            size = (end - start) // (2 * ranks)
            yield start, start + rank * size, start + (rank + 1) * size
            yield start, end - (rank + 1) * size, end - rank * size


def own_tokens(bounds: Sequence[int], rank: int, ranks: int) -> Tensor:
    """Which of the tokens a context-parallel rank reads, [T / ranks] int64, in its order."""
    return torch.cat([torch.arange(first, last) for _, first, last in stretches(bounds, rank, ranks)])


def assemble(values: Tensor, share: Share, count: int) -> Tensor:
    """Put the context-parallel ranks' values [M] together: [count] on all of them. Collective.

    Each rank computes the same loss of all values and differentiates its own.
    """
    group = parallel_state.get_context_parallel_group()
    return values if group.size() == 1 else _Assemble.apply(values, share.predicted, count, group)


class _Assemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, predicted: Tensor, count: int, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(predicted)
        whole = values.new_zeros(count).index_copy(0, predicted, values)
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (predicted,) = ctx.saved_tensors
        return gradient[predicted], None, None, None
