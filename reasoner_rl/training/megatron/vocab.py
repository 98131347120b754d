"""Logprobs and entropy where each tensor-parallel rank holds the logits of a part of the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from reasoner_rl.types import TokenOutputs


def vocab_parallel_logprobs(
    logits: Tensor,
    targets: Tensor,
    group: dist.ProcessGroup,
    *,
    vocabulary: int,
    temperature: float,
    chunk_tokens: int,
) -> TokenOutputs:
    """Return logprobs of ``targets`` and the entropy of softmax(logits / temperature), both [N] float32, in nats.

    Every rank of ``group`` gets all of both; a loss of them has the gradient of this rank's logits. Collective.

    logits: [N, V / ranks], rank r's columns starting at r * V / ranks; those from ``vocabulary`` on are padding, and
    have no probability. targets: [N] int64, the same on all ranks.
    chunk_tokens: tokens whose float32 logits are held at a time; memory, not results, depends on it.
    """
    logprobs, entropy = _VocabParallel.apply(logits, targets, group, vocabulary, temperature, chunk_tokens)
    return TokenOutputs(logprobs, entropy)


class _VocabParallel(torch.autograd.Function):
    """The backward pass computes probabilities again from the logits, chunk by chunk, and needs no communication."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        group: dist.ProcessGroup,
        vocabulary: int,
        temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        first = dist.get_rank(group) * logits.shape[1]
        columns = min(max(vocabulary - first, 0), logits.shape[1])  # that are no padding
        top = logits.new_full((len(logits),), -torch.inf, dtype=torch.float32)
        if columns:
            top = logits[:, :columns].amax(-1).float() / temperature
        dist.all_reduce(top, dist.ReduceOp.MAX, group)
        sums = torch.zeros(
            3, len(logits), device=logits.device
        )  # of exp, of the target's logit, of exp * logit
        for chunk in _chunks(len(logits), chunk_tokens):
            shifted = logits[chunk, :columns].float() / temperature - top[chunk, None]
            exponentials = shifted.exp()
            here = targets[chunk] - first
            own = (here >= 0) & (here < columns)
            sums[0, chunk] = exponentials.sum(-1)
            sums[1, chunk][own] = shifted[own, here[own]]
            sums[2, chunk] = (exponentials * shifted).sum(-1)
        dist.all_reduce(sums, group=group)
        log_sums = sums[0].log()
        entropy = log_sums - sums[2] / sums[0]
        ctx.save_for_backward(logits, targets, log_sums + top, entropy)
        ctx.shape = (first, columns, temperature, chunk_tokens)
        ctx.set_materialize_grads(False)
        return sums[1] - log_sums, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        logits, targets, normalisers, entropy = ctx.saved_tensors
        first, columns, temperature, chunk_tokens = ctx.shape
        gradient = torch.zeros_like(logits)
        for chunk in _chunks(len(logits), chunk_tokens):
            log_probabilities = logits[chunk, :columns].float() / temperature - normalisers[chunk, None]
            probabilities = log_probabilities.exp()
            part = torch.zeros_like(probabilities)
            if grad_logprobs is not None:
                here = targets[chunk] - first
                own = (here >= 0) & (here < columns)
                part -= probabilities * grad_logprobs[chunk, None]
                part[own, here[own]] += grad_logprobs[chunk][own]
            if grad_entropy is not None:
                part -= probabilities * (log_probabilities + entropy[chunk, None]) * grad_entropy[chunk, None]
            gradient[chunk, :columns] = (part / temperature).to(logits.dtype)
        return gradient, None, None, None, None, None


def _chunks(tokens: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, tokens, size)]
