"""Attention for decoding: one query token a row against the row's cached keys.

The query heads that share a key-value head become rows of one small matrix product, so grouped-query models never
repeat their keys and values. Registered with transformers under `DECODE_ATTENTION`; the masks are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reasoner_rl.errors import UserError

DECODE_ATTENTION = "reasoner_rl_decode"

# A block has so many places for keys at least, below which further calls cost more than they save, and there are so
# many blocks at most. They pay where no more than this share of the places is left.
BLOCK_KEYS, MOST_BLOCKS, WORTH_BLOCKS = 4096, 16, 0.9


class RowBlock(NamedTuple):
    """Neighbouring rows, ``first`` to ``end``, none of which sees a key before ``column``."""

    first: int
    end: int
    column: int


def row_blocks(padding: Sequence[int], columns: int) -> list[RowBlock] | None:
    """Blocks of rows that are attended to apart, each without the columns that are padding in all its rows.

    Rows whose places were given to new responses have short contexts, and would otherwise be multiplied with as many
    columns as the longest. They stand behind older ones, so neighbours have contexts of about the same length.

    padding: columns on the left of each row that hold nothing. None: not worth it.
    """
    rows = len(padding)
    size = max(-(-BLOCK_KEYS // columns), -(-rows // MOST_BLOCKS))
    ends = [(first, min(first + size, rows)) for first in range(0, rows, size)]
    blocks = [RowBlock(first, end, min(padding[first:end])) for first, end in ends]
    left = sum((block.end - block.first) * (columns - block.column) for block in blocks)
    return blocks if left <= WORTH_BLOCKS * rows * columns else None


# What some models (Gemma 2, gpt-oss) pass to change the scores, and scaled dot-product attention would ignore.
_UNSUPPORTED = ("softcap", "s_aux")


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    row_blocks: Sequence[RowBlock] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface, without gradient or dropout.

    Args:
        query: [rows, heads, queries, width]. Several queries (prefill) go to transformers' own SDPA.
        key, value: [rows, key-value heads, keys, width].
        attention_mask: of `decode_mask`; None: all keys are seen.
        row_blocks: see `row_blocks`; of use on a CPU. None: all rows together.

    Returns:
        [rows, queries, heads, width] and no attention weights.

    Raises:
        UserError: the model's attention has score capping or sinks.
    """
    for extra in _UNSUPPORTED:
        if kwargs.get(extra) is not None:
            raise UserError(
                f"rollout.engine.kind: hf does not know {type(module).__name__}'s {extra}. Use vllm."
            )
    rows, heads, queries, width = query.shape
    if queries > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, key.shape[1], -1, width)
    if query.device.type == "cpu":
        whole = RowBlock(0, rows, 0)
        parts = [_of_block(block, grouped, key, value, attention_mask) for block in row_blocks or (whole,)]
        outputs = [_batched_matmul_attention(*part, scaling or width**-0.5) for part in parts]
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    else:
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, value.shape[-1]), None


def _of_block(
    block: RowBlock, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What a block's rows look at."""
    rows, columns = slice(block.first, block.end), slice(block.column, None)
    seen = None if mask is None else mask[rows, ..., columns]
    return query[rows], key[rows, :, columns], value[rows, :, columns], seen


def _batched_matmul_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """SDPA's CPU kernel starts a matrix product for each row and head; two batched ones take about half the time."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value)


def decode_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask of SDPA, [rows, 1, queries, keys] bool, True where a key is seen.

    For one query on a CPU it is float32, 0 or -inf, which every layer adds to its scores: to choose by a bool in each
    takes eight times as long.
    """
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    if mask is None or mask.device.type != "cpu" or mask.shape[2] > 1:
        return mask
    return torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


AttentionInterface.register(DECODE_ATTENTION, decode_attention)
AttentionMaskInterface.register(DECODE_ATTENTION, decode_mask)
