"""Logprobs and entropy of response tokens without ever holding the logits of all of them.

The logits of a batch, [N, V] in float32, are the largest tensor of training: 16k tokens of a 150k vocabulary
take 10 GB, several times over. Here only the logits of one chunk of tokens exist at a time; the backward pass computes
them again, except those of the last chunk, which are kept for it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from reasoner_rl.types import TokenOutputs


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
    entropy_gradient: bool = False,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    unused_ids: Tensor | None = None,
) -> TokenOutputs:
    """Return logprobs of ``targets`` and the distribution's entropy, both [N] float32, in nats.

    The distribution is softmax(logits / temperature) with logits = logit_scale * (hidden @ weight.T + bias),
    and then softcap * tanh(logits / softcap) if the model has it (Gemma 2), over all ids but ``unused_ids``: those
    have no probability, and the gradient of their rows is exactly zero.

    hidden: [N, D]. weight: [V, D]. bias: [V] or None. targets: [N] int64 in 0..V-1.
    chunk_tokens: tokens whose logits are held at a time; memory, not results, depends on it.
    entropy_gradient: whether the entropy has a gradient.
    unused_ids: [U] int64, no target among them; None: all ids have a probability.

    The matrix product is in the dtype of hidden and weight, everything after it in float32 (in float64 for
    float64). Raises ValueError unless temperature and chunk_tokens are positive.
    """
    if temperature <= 0 or chunk_tokens <= 0:
        raise ValueError(f"{temperature=} and {chunk_tokens=} must be positive")
    logprobs, entropy = _TokenLogprobs.apply(
        hidden,
        weight,
        bias,
        targets,
        _Logits(logit_scale, softcap, temperature, unused_ids),
        chunk_tokens,
        entropy_gradient,
    )
    return TokenOutputs(logprobs, entropy)


# The logit of an id without probability: far below any other, and finite, because 0 * -inf in the entropy is NaN.
NO_PROBABILITY = -1e30


class _Logits:
    """How raw products become the logits of the sampled distribution, and the way back for gradients."""

    def __init__(
        self, scale: float, softcap: float | None, temperature: float, unused_ids: Tensor | None
    ) -> None:
        self.scale, self.softcap, self.temperature = scale, softcap, temperature
        self.unused_ids = unused_ids

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return logits / temperature of a chunk, [n, V] float32, in memory of its own."""
        logits = F.linear(hidden, weight, bias)
        logits = logits.to(_compute_dtype(logits))
        factor = self.scale / self.temperature
        if self.softcap is not None:
            logits.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap / self.temperature)
        elif factor != 1.0:
            logits.mul_(factor)
        return logits if self.unused_ids is None else logits.index_fill_(-1, self.unused_ids, NO_PROBABILITY)

    def backward_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient of `forward`'s result ``logits`` into the raw product's; overwrites both."""
        factor = self.scale / self.temperature
        if self.softcap is not None:
            tanh = logits.mul_(self.temperature / self.softcap)
            gradient.addcmul_(gradient * tanh, tanh, value=-1.0)
        return gradient if factor == 1.0 else gradient.mul_(factor)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        logits_of: _Logits,
        chunk_tokens: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=_compute_dtype(hidden))
        entropy, normalisers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        ctx.last = None
        for chunk in _chunks(len(targets), chunk_tokens):
            logits = logits_of.forward(hidden[chunk], weight, bias)
            top = logits.amax(-1, keepdim=True)
            logits.sub_(top)
            exponentials = logits.exp()
            log_sums = exponentials.sum(-1).log_()
            logprobs[chunk] = logits.gather(-1, targets[chunk, None])[:, 0] - log_sums
            # H = log sum - sum(p * logits), with p = exp(logits - log sum).
            expected = exponentials.mul_(logits).sum(-1).div_(log_sums.exp())
            entropy[chunk] = log_sums - expected
            normalisers[chunk] = log_sums + top[:, 0]
            if chunk.stop >= len(targets) and any(ctx.needs_input_grad) and logits_of.softcap is None:
                ctx.last = logits, log_sums
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, entropy)
        ctx.logits_of, ctx.chunk_tokens = logits_of, chunk_tokens
        ctx.set_materialize_grads(False)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers, entropy = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        accumulate_in = _compute_dtype(weight)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate_in) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate_in) if wants_bias else None
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(normalisers)
        # The last chunk comes first, so that no more than one chunk's logits are held.
        for chunk in reversed(_chunks(len(targets), ctx.chunk_tokens)):
            (logits, log_sums), ctx.last = ctx.last or (None, normalisers[chunk]), None
            if logits is None:
                logits = ctx.logits_of.forward(hidden[chunk], weight, bias)
            gradient = _logits_gradient(
                logits,
                targets[chunk],
                log_sums,
                entropy[chunk],
                grad_logprobs[chunk],
                None if grad_entropy is None else grad_entropy[chunk],
            )
            gradient = ctx.logits_of.backward_(gradient, logits).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(gradient, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                _add_product_(grad_weight, gradient.T, hidden[chunk])
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        return grad_hidden, _cast(grad_weight, weight), _cast(grad_bias, bias), None, None, None, None


def _logits_gradient(
    logits: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    entropy: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
) -> Tensor:
    """Return grad_logprobs * (onehot - p) - grad_entropy * p * (log p + H), [n, V]."""
    gradient = logits - normalisers[:, None]
    if grad_entropy is None:
        gradient.exp_().mul_(-grad_logprobs[:, None])
    else:
        probabilities = gradient.exp()
        gradient.add_(entropy[:, None]).mul_(grad_entropy[:, None]).add_(grad_logprobs[:, None])
        gradient.mul_(probabilities).neg_()
    return gradient.scatter_add_(-1, targets[:, None], grad_logprobs[:, None])


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _chunks(tokens: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _cast(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
    return gradient if gradient is None or like is None else gradient.to(like.dtype)
