"""The varlen attention against dense attention under an explicit block-diagonal mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.training.attention import choose_attention
from reasoner_rl.training.varlen_sdpa import VARLEN_SDPA, VarlenLayout, varlen_sdpa

H, K, D = 4, 2, 8


def boundaries(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


@pytest.mark.parametrize("lengths", [[5], [1, 1], [5, 1, 7, 6, 30, 29, 3], [4, 4, 4], [2, 40, 3]])
def test_equals_block_diagonal_attention_forward_and_backward(lengths: list[int]) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    q, k, v = (
        torch.randn(1, heads, tokens, D, dtype=torch.float64, requires_grad=True) for heads in (H, K, K)
    )
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(tokens)
    mask = (segment[:, None] == segment) & (place[:, None] >= place)
    expected = scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=mask, scale=0.3
    ).transpose(1, 2)
    actual, _ = varlen_sdpa(
        torch.nn.Identity(), q, k, v, None, scaling=0.3, varlen_layout=VarlenLayout.of(boundaries(lengths))
    )
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (q, k, v), weights),
        torch.autograd.grad(expected, (q, k, v), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_padding_stays_under_a_fifth_of_each_bucket() -> None:
    lengths = torch.randint(1, 200, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    layout = VarlenLayout.of(boundaries(lengths))
    places = sum(bucket.rows * bucket.length for bucket in layout.buckets)
    assert sum(lengths) <= places <= sum(lengths) / 0.8
    assert layout.unused is not None
    assert len(layout.unused) == places - sum(lengths)
    assert torch.equal(layout.gather[layout.scatter], torch.arange(sum(lengths)))


@pytest.mark.parametrize("extra", ["softcap", "s_aux"])
def test_refuses_models_that_change_the_scores(extra: str) -> None:
    q, layout = torch.randn(1, 2, 4, 8), VarlenLayout.of(boundaries([4]))
    with pytest.raises(UserError, match=f"does not know Identity's {extra}"):
        varlen_sdpa(torch.nn.Identity(), q, q, q, None, varlen_layout=layout, **{extra: 2.0})
    varlen_sdpa(torch.nn.Identity(), q, q, q, None, varlen_layout=layout, **{extra: None})


def test_values_may_be_narrower_than_keys() -> None:
    torch.manual_seed(0)
    q, v = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 4)
    actual, _ = varlen_sdpa(
        torch.nn.Identity(), q, q, v, None, varlen_layout=VarlenLayout.of(boundaries([4, 5]))
    )
    for part in (slice(0, 4), slice(4, 9)):
        expected = scaled_dot_product_attention(q[:, :, part], q[:, :, part], v[:, :, part], is_causal=True)
        torch.testing.assert_close(actual[:, part], expected.transpose(1, 2))


def test_flash_attention_is_for_sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("reasoner_rl.training.attention.has_kernel", lambda device: False)  # PyTorch's own
    gpu = torch.device("cuda", 0)
    assert choose_attention("auto", gpu, torch.float32) == VARLEN_SDPA
    assert choose_attention("auto", gpu, torch.bfloat16) == "flash_attention_2"
    assert choose_attention("auto", torch.device("cpu"), torch.bfloat16) == VARLEN_SDPA
    with pytest.raises(ConfigError, match=r"needs model\.dtype=bfloat16; it is float32"):
        choose_attention("flash_attention_2", gpu, torch.float32)


def test_refuses_to_attend_across_sequences() -> None:
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="varlen_layout"):
        varlen_sdpa(torch.nn.Identity(), q, q, q, None)


def test_refuses_a_sequence_longer_than_the_sliding_window() -> None:
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="sliding window of 3"):
        varlen_sdpa(
            torch.nn.Identity(),
            q,
            q,
            q,
            None,
            sliding_window=3,
            varlen_layout=VarlenLayout.of(boundaries([4])),
        )
