"""Attention for decoding: one query token a row against the row's cached keys.

The query heads that share a key-value head become rows of one small matrix product, so grouped-query models never
repeat their keys and values. Registered with transformers under `DECODE_ATTENTION`; the masks are its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reasoner_rl.errors import UserError

DECODE_ATTENTION = "reasoner_rl_decode"

# What some models (Gemma 2, gpt-oss) pass to change the scores, and scaled dot-product attention would ignore.
_UNSUPPORTED = ("softcap", "s_aux")


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface, without gradient or dropout.

    Args:
        query: [rows, heads, queries, width]. Several queries (prefill) go to transformers' own SDPA.
        key, value: [rows, key-value heads, keys, width].
        attention_mask: of `decode_mask`; None: all keys are seen.

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
        output = _batched_matmul_attention(grouped, key, value, attention_mask, scaling or width**-0.5)
    else:
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, value.shape[-1]), None


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
