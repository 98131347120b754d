"""Attention of one query per row, against PyTorch's own with repeated keys and values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from reasoner_rl.rollout import attention
from reasoner_rl.rollout.attention import decode_attention, decode_mask, row_blocks
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


def test_blocks_of_rows_leave_out_what_is_padding_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_KEYS", 40)
    padding = [0, 3, 9, 8, 12]
    blocks = row_blocks(padding, 20)
    assert blocks == [(0, 2, 0), (2, 4, 8), (4, 5, 12)]
    assert row_blocks([0, 1, 2, 1, 3], 40) is None, "too little is saved"
    assert row_blocks([0] * 4, 40) is None
    query, key, value = (drawn(5, heads, n, WIDTH) for heads, n in ((8, 1), (KV_HEADS, 20), (KV_HEADS, 20)))
    seen = (torch.arange(20) >= torch.tensor(padding)[:, None])[:, None, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    together, _ = decode_attention(nn.Module(), query, key, value, mask)
    apart, _ = decode_attention(nn.Module(), query, key, value, mask, row_blocks=blocks)
    torch.testing.assert_close(apart, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 40, 64, 200])
def test_blocks_hold_every_row_once(rows: int) -> None:
    padding = [3 * row for row in range(rows)]
    blocks = row_blocks(padding, 600) or []
    held = [row for block in blocks for row in range(block.first, block.end)]
    assert held == (list(range(rows)) if blocks else [])
    assert all(block.column == padding[block.first] for block in blocks)
    assert (len(blocks) > 1) == (rows > 40)
    assert len(blocks) <= attention.MOST_BLOCKS


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
