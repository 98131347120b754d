"""From one number per token to one scalar, such that micro-batches and ranks add up to the whole mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_rl.config.algorithm import Aggregation
from reasoner_rl.types import MicroBatch

_LOG_RATIO_LIMIT = 20.0


def aggregate(values: Tensor, batch: MicroBatch, mode: Aggregation) -> Tensor:
    """Return the share that this micro-batch has in the mini-batch's mean, a scalar.

    values: [N], one per response token; where ``batch.loss_mask`` is False they may hold anything, even NaN.
    mode: token-mean weighs tokens equally (DAPO, arXiv 2503.14476), seq-mean-token-mean responses (GRPO,
    arXiv 2402.03300); seq-mean-token-sum-norm divides by a constant length (Dr. GRPO, arXiv 2503.20783).

    The sum over all micro-batches and ranks is the mean over the mini-batch, however it was cut between
    sequences; a mini-batch that trains nothing gives 0.
    """
    denominators = batch.denominators
    trained = torch.where(batch.loss_mask, values, 0.0)
    sequences = max(denominators.sequences, 1.0)
    if mode == "token-mean":
        return trained.sum() / max(denominators.tokens, 1.0)
    if mode == "seq-mean-token-mean":
        return (trained / trained_lengths(batch)[batch.sequence_ids]).sum() / sequences
    return trained.sum() / (sequences * max(denominators.max_response_tokens, 1.0))


def sequence_sums(values: Tensor, batch: MicroBatch) -> Tensor:
    """Replace each token's value [N] by the sum over its response's trained tokens; 0 if it has none."""
    return sums_by_sequence(values, batch)[batch.sequence_ids]


def sequence_means(values: Tensor, batch: MicroBatch) -> Tensor:
    """Replace each token's value [N] by the mean over its response's trained tokens; 0 if it has none."""
    return (sums_by_sequence(values, batch) / trained_lengths(batch))[batch.sequence_ids]


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """Return e^x of log-ratios, in nats, kept within 20 of 0 as in verl, so that no ratio overflows."""
    return log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def sums_by_sequence(values: Tensor, batch: MicroBatch) -> Tensor:
    """Sum each response's trained tokens: from [N] to [S]; 0 if it has none."""
    trained = torch.where(batch.loss_mask, values, 0.0)
    return trained.new_zeros(batch.sequences).index_add(0, batch.sequence_ids, trained)


def trained_lengths(batch: MicroBatch) -> Tensor:
    """The number of trained tokens of each response [S] float32, 1 where there are none."""
    counts = torch.zeros(batch.sequences, device=batch.loss_mask.device)
    return counts.index_add(0, batch.sequence_ids, batch.loss_mask.float()).clamp(min=1.0)
