"""Attention over packed sequences on any device, for transformers' AttentionInterface.

Sequences of similar length are padded on the right into one batch and go through PyTorch's causal scaled-dot-product
attention. Under a causal mask no real token sees a padding token after it, so no mask is needed and the fused kernel
runs. Only attention is padded; all the rest of the model works on the flat tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reasoner_rl.training.attention_limits import check_scores, check_window
from reasoner_rl.training.shared_prompts import SharedPrompts

VARLEN_SDPA = "reasoner_rl_varlen_sdpa"

# A bucket takes shorter sequences until this share of its rows would be padding.
_MOST_PADDING = 0.2


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences that are padded to one length and attended to as one batch."""

    rows: int
    length: int


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """Where each of K flat tokens sits among the P padded places; made once per micro-batch, used by every layer.

    A token of a shared prompt has one place in each of the prompt's sequences, and its output is taken from one.
    """

    buckets: tuple[Bucket, ...]  # the places are those of the buckets laid end to end, row by row
    gather: Tensor  # [P] int64: flat token at each place; padding repeats its sequence's last token
    scatter: Tensor  # [K] int64: place that each flat token's output is taken from
    copies: Tensor | None  # other places of shared tokens, int64; None where there are none
    # Places whose output is not taken, padding and copies, int64; None where there are none.
    unused: Tensor | None

    @classmethod
    def of(cls, cu_seqlens: Tensor, shared: SharedPrompts | None = None) -> VarlenLayout:
        """Plan the buckets for sequences with boundaries ``cu_seqlens`` [S + 1], before prompts are shared."""
        bounds = cu_seqlens.cpu().to(torch.int64)
        starts, lengths = bounds[:-1], bounds.diff()
        buckets, gathers, reals = [], [], []
        for members in _bucket(lengths.tolist()):
            column = torch.arange(int(lengths[members[0]]))
            last = lengths[members][:, None] - 1
            gathers.append((starts[members][:, None] + torch.minimum(column, last)).flatten())
            reals.append((column <= last).flatten())
            buckets.append(Bucket(len(members), len(column)))
        gather, real = torch.cat(gathers), torch.cat(reals)
        scatter = torch.empty(int(bounds[-1]), dtype=torch.int64)
        scatter[gather[real]] = real.nonzero().flatten()
        copies = None
        if shared is not None:
            repeated = torch.ones(len(scatter), dtype=torch.bool).index_fill_(0, shared.kept.cpu(), False)
            copies = scatter[repeated]
            gather, scatter = shared.stand_ins.cpu()[gather], scatter[~repeated]
        unused = torch.ones(len(gather), dtype=torch.bool).index_fill_(0, scatter, False).nonzero().flatten()
        device = cu_seqlens.device
        return cls(
            tuple(buckets),
            gather.to(device),
            scatter.to(device),
            None if copies is None else copies.to(device),
            unused.to(device) if len(unused) else None,
        )


def _bucket(lengths: Sequence[int]) -> list[list[int]]:
    """Group sequences, longest first, so that no group is more than `_MOST_PADDING` padding."""
    buckets: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if buckets:
            places = (len(buckets[-1]) + 1) * lengths[buckets[-1][0]]
            if places - tokens - lengths[index] <= _MOST_PADDING * places:
                buckets[-1].append(index)
                tokens += lengths[index]
                continue
        buckets.append([index])
        tokens = lengths[index]
    return buckets


class _Pad(torch.autograd.Function):
    """[K, C] -> [P, C]. Padding has no gradient, and most tokens have one place, so backward sums only copies."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: VarlenLayout) -> Tensor:
        ctx.layout = layout
        return flat.index_select(0, layout.gather)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layout, padded = ctx.layout, gradients[0]
        flat = padded.index_select(0, layout.scatter)
        if layout.copies is not None:
            flat.index_add_(0, layout.gather[layout.copies], padded.index_select(0, layout.copies))
        return flat, None


class _Unpad(torch.autograd.Function):
    """[P, C] -> [K, C]: takes each token's output; places that are not taken get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, layout: VarlenLayout) -> Tensor:
        ctx.layout = layout
        return padded.index_select(0, layout.scatter)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        padded = gradients[0].index_select(0, ctx.layout.gather)
        if ctx.layout.unused is not None:
            padded.index_fill_(0, ctx.layout.unused, 0)
        return padded, None


def varlen_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    varlen_layout: VarlenLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each packed sequence, with the signature that transformers calls.

    query [1, H, T, D]; key [1, K, T, D] and value [1, K, T, E] with K dividing H. Returns [1, T, H, E]. Raises
    ValueError if the caller gave no layout, or if a sequence is longer than a sliding window, and UserError if the
    model's attention has score capping or sinks.
    """
    check_scores("varlen_sdpa", module, kwargs)
    if varlen_layout is None:
        raise ValueError(
            "varlen_sdpa needs the keyword varlen_layout: it attends within packed sequences only"
        )
    check_window("varlen_sdpa", max(bucket.length for bucket in varlen_layout.buckets), sliding_window)
    groups = query.shape[1] // key.shape[1]
    padded = [
        _Pad.apply(part[0].transpose(0, 1).reshape(part.shape[2], -1), varlen_layout)
        for part in (query, key, value)
    ]
    outputs, start = [], 0
    for bucket in varlen_layout.buckets:
        places = bucket.rows * bucket.length
        q, k, v = (
            part[start : start + places].view(bucket.rows, bucket.length, heads, -1).transpose(1, 2)
            for part, heads in zip(padded, (query.shape[1], key.shape[1], key.shape[1]), strict=True)
        )
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        attended = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        outputs.append(attended.transpose(1, 2).reshape(places, -1))
        start += places
    flat = _Unpad.apply(torch.cat(outputs) if len(outputs) > 1 else outputs[0], varlen_layout)
    return flat.view(1, query.shape[2], query.shape[1], -1), None
