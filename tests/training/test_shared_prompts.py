"""Which tokens of a packed batch are computed once for several sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.training.shared_prompts import SharedPrompts
from reasoner_rl.training.varlen_sdpa import VarlenLayout, varlen_sdpa
from reasoner_rl.types import MicroBatch, TrainSample


def pack(*sequences: tuple[list[int], list[int]]) -> MicroBatch:
    """One micro-batch of (prompt, response) pairs, which must come longest first."""
    samples = [
        TrainSample(
            prompt_ids=torch.tensor(prompt),
            response_ids=torch.tensor(response),
            loss_mask=torch.ones(len(response), dtype=torch.bool),
            advantages=torch.ones(len(response)),
            rollout_logprobs=torch.zeros(len(response)),
        )
        for prompt, response in sequences
    ]
    [batch] = plan_mini_batch(samples, 10_000, 100).micro_batches
    assert batch.sample_indices == tuple(range(len(sequences)))
    return batch


def test_a_repeated_prompt_is_kept_once() -> None:
    shared = SharedPrompts.of(pack(([7, 8], [1, 2, 3]), ([7, 9], [1, 2]), ([7, 8], [1, 2]), ([7, 8], [4])))
    assert shared is not None
    #    prompt  response   prompt  response   prompt   response    prompt   response
    #    0  1    2  3  4    5  6    7  8       (9  10)  11  12      (13 14)  15
    assert shared.kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15]
    assert shared.stand_ins.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 9, 10, 0, 1, 11]


def test_equal_responses_and_equal_beginnings_are_not_shared() -> None:
    assert SharedPrompts.of(pack(([7, 8, 9], [1, 2]), ([7, 8], [1, 2]), ([8], [1, 2]))) is None


@pytest.mark.parametrize(
    "sequences",
    [
        [([7, 8], [1, 2]), ([7, 8], [3, 4])],
        [([1] * 9, [2] * 30), ([5, 6], [3] * 20), ([5, 6], [3] * 18), ([1] * 9, [2]), ([5, 6], [3])],
    ],
)
def test_attention_and_its_gradient_equal_those_of_repeated_prompts(
    sequences: list[tuple[list[int], list[int]]],
) -> None:
    torch.manual_seed(0)
    batch = pack(*sequences)
    shared = SharedPrompts.of(batch)
    assert shared is not None
    q, k, v = (
        torch.randn(1, heads, len(shared.kept), 8, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    actual, _ = varlen_sdpa(
        torch.nn.Identity(), q, k, v, None, varlen_layout=VarlenLayout.of(batch.cu_seqlens, shared)
    )
    expected = attend_to_repeated(q, k, v, batch, shared)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (q, k, v), weights),
        torch.autograd.grad(expected, (q, k, v), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def attend_to_repeated(q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch, shared: SharedPrompts) -> Tensor:
    """Dense attention over all T tokens, of which those that are kept are returned."""
    q, k, v = (part[:, :, shared.stand_ins] for part in (q, k, v))
    lengths = batch.cu_seqlens.diff().long()
    segment, place = torch.repeat_interleave(torch.arange(len(lengths)), lengths), torch.arange(q.shape[2])
    mask = (segment[:, None] == segment) & (place[:, None] >= place)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)[:, shared.kept]
