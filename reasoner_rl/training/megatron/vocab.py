"""Logprobs and entropy where each tensor-parallel rank holds the logits of a part of the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from reasoner_rl.training.token_logprobs import NO_PROBABILITY
from reasoner_rl.types import TokenOutputs


def vocab_parallel_logprobs(
    logits: Tensor,
    targets: Tensor,
    group: dist.ProcessGroup,
    *,
    vocabulary: int,
    temperature: float,
    chunk_tokens: int,
    unused_ids: Tensor | None = None,
) -> TokenOutputs:
    """Return logprobs of ``targets`` and the entropy of softmax(logits / temperature), both [N] float32, in nats.

    Every rank of ``group`` gets all of both; a loss of them has the gradient of this rank's logits. Collective.

    logits: [N, V / ranks], rank r's columns starting at r * V / ranks; those from ``vocabulary`` on are padding, and
    have no probability. targets: [N] int64, the same on all ranks.
    unused_ids: [U] int64, ids of the vocabulary that have no probability either; no target is among them.
    chunk_tokens: tokens whose float32 logits are held at a time; memory, not results, depends on it.
    """
    first = dist.get_rank(group) * logits.shape[1]
    columns = _Columns(first, min(max(vocabulary - first, 0), logits.shape[1]), temperature, unused_ids)
    logprobs, entropy = _VocabParallel.apply(logits, targets, group, columns, chunk_tokens)
    return TokenOutputs(logprobs, entropy)


class _Columns:
    """This rank's columns that are no padding: ``count`` ids from ``first`` on."""

    def __init__(self, first: int, count: int, temperature: float, unused_ids: Tensor | None) -> None:
        self.first, self.count, self.temperature = first, count, temperature
        self._unused: Tensor | None = None
        if unused_ids is not None and len(unused_ids):
            self._unused = unused_ids[(unused_ids >= first) & (unused_ids < first + count)] - first

    def scaled(self, logits: Tensor) -> Tensor:
        """Return logits / temperature of a chunk, [n, count] float32, in memory of its own."""
        scaled = logits[:, : self.count].float() / self.temperature
        return scaled if self._unused is None else scaled.index_fill_(-1, self._unused, NO_PROBABILITY)

    def own(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of ``targets`` [n] are among these columns, [n] bool, and the targets' columns [n] int64."""
        here = targets - self.first
        return (here >= 0) & (here < self.count), here


class _VocabParallel(torch.autograd.Function):
    """The backward pass computes probabilities again from the logits, chunk by chunk, and needs no communication."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        group: dist.ProcessGroup,
        columns: _Columns,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        top = logits.new_full((len(logits),), -torch.inf, dtype=torch.float32)
        if columns.count:
            for chunk in _chunks(len(logits), chunk_tokens):
                top[chunk] = columns.scaled(logits[chunk]).amax(-1)
        dist.all_reduce(top, dist.ReduceOp.MAX, group)
        # Sums of exp(logit), of the target's logit, and of exp(logit) * logit.
        sums = torch.zeros(3, len(logits), device=logits.device)
        for chunk in _chunks(len(logits), chunk_tokens):
            shifted = columns.scaled(logits[chunk]).sub_(top[chunk, None])
            exponentials = shifted.exp()
            own, here = columns.own(targets[chunk])
            sums[0, chunk] = exponentials.sum(-1)
            sums[1, chunk][own] = shifted[own, here[own]]
            sums[2, chunk] = (exponentials * shifted).sum(-1)
        dist.all_reduce(sums, group=group)
        log_sums = sums[0].log()
        entropy = log_sums - sums[2] / sums[0]
        ctx.save_for_backward(logits, targets, log_sums + top, entropy)
        ctx.columns, ctx.chunk_tokens = columns, chunk_tokens
        ctx.set_materialize_grads(False)
        return sums[1] - log_sums, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        logits, targets, normalisers, entropy = ctx.saved_tensors
        columns: _Columns = ctx.columns
        gradient = torch.zeros_like(logits)
        for chunk in _chunks(len(logits), ctx.chunk_tokens):
            log_probabilities = columns.scaled(logits[chunk]).sub_(normalisers[chunk, None])
            probabilities = log_probabilities.exp()
            part = torch.zeros_like(probabilities)
            if grad_logprobs is not None:
                own, here = columns.own(targets[chunk])
                part -= probabilities * grad_logprobs[chunk, None]
                part[own, here[own]] += grad_logprobs[chunk][own]
            if grad_entropy is not None:
                part -= probabilities * (log_probabilities + entropy[chunk, None]) * grad_entropy[chunk, None]
            gradient[chunk, : columns.count] = (part / columns.temperature).to(logits.dtype)
        return gradient, None, None, None, None


def _chunks(tokens: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, tokens, size)]
