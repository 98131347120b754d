"""Attention of one query per row, against PyTorch's own with repeated keys and values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from reasoner_rl.rollout.attention import decode_attention, decode_mask
from reasoner_rl.rollout.kv_cache import KvCache, aligned

ROWS, KV_HEADS, GROUPS, WIDTH, KEYS = 3, 2, 4, 8, 6
PADDING = torch.tensor([0, 2, 5])


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_equals_pytorchs(padded: bool, scaling: float | None, dtype: torch.dtype, tolerance: float) -> None:
    query = drawn(ROWS, KV_HEADS * GROUPS, 1, WIDTH).to(dtype)
    key, value = (drawn(ROWS, KV_HEADS, KEYS, width).to(dtype) for width in (WIDTH, WIDTH + 1))
    value = value[..., :WIDTH]
    seen = (torch.arange(KEYS) >= PADDING[:, None])[:, None, None] if padded else None
    mask = None if seen is None else torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    found, _ = decode_attention(nn.Module(), query, key, value, mask, scaling)
    repeated = [part.repeat_interleave(GROUPS, dim=1) for part in (key, value)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=seen, scale=scaling)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("queries", "kind"), [(1, torch.float32), (2, torch.bool)])
def test_one_query_has_a_mask_to_add(queries: int, kind: torch.dtype) -> None:
    attended = torch.arange(KEYS) >= PADDING[:, None]
    mask = decode_mask(
        batch_size=ROWS,
        q_length=queries,
        q_offset=KEYS - queries,
        kv_length=KEYS,
        attention_mask=attended,
        allow_is_causal_skip=False,
    )
    assert mask is not None
    assert mask.dtype is kind
    assert mask.shape == (ROWS, 1, queries, KEYS)
    shown = mask[:, 0, -1] if kind is torch.bool else mask[:, 0, -1] == 0
    assert torch.equal(shown, attended)


def test_rearranged_rows_have_zeros_before_their_first_column_and_nothing_else_is_lost() -> None:
    cache, longer = KvCache(), KvCache()
    states, more = drawn(2, KV_HEADS, 3, WIDTH), drawn(1, KV_HEADS, 5, WIDTH)
    cache.update(states, 2 * states, 0)
    longer.update(more, 2 * more, 0)
    parts = [(cache, torch.tensor([1, 0, 1])), (longer, torch.tensor([0]))]
    [layer] = aligned(parts, columns=5, spare_tokens=7).in_place_layers
    assert layer.keys.shape == (4, KV_HEADS, 12, WIDTH)
    for held, factor in ((layer.keys, 1), (layer.values, 2)):
        assert not held[:3, :, :2].any()
        assert torch.equal(held[:3, :, 2:5], factor * states[[1, 0, 1]])
        assert torch.equal(held[3:, :, :5], factor * more)
