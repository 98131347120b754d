"""From logits to sampled tokens: pure functions, and the random numbers that belong to each response."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig

_BLOCK_TOKENS = 256


class UniformStreams:
    """One stream per row of uniform numbers in [0, 1), from the counter-based generator Philox.

    A stream is keyed by (request seed, sample number) and read in order, so a response draws the same numbers whatever
    else is in the batch.
    """

    def __init__(self, streams: Sequence[tuple[tuple[int, int], int]]) -> None:
        """streams: the key of each, and how many of its numbers were read before."""
        self._generators = [
            np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))) for key, _ in streams
        ]
        self._read = np.array([read for _, read in streams], np.int64)
        self._block = np.empty((len(streams), _BLOCK_TOKENS), np.float32)
        for row, (blocks, begun) in enumerate(np.stack(np.divmod(self._read, _BLOCK_TOKENS), 1).tolist()):
            for _ in range(blocks + (begun > 0)):
                self._next_block(row)

    def rearrange(self, kept: NDArray[np.int64], added: Sequence[tuple[tuple[int, int], int]]) -> None:
        """Keep the streams ``kept`` [n], and append new ones."""
        fresh = UniformStreams(added)
        self._generators = [self._generators[row] for row in kept] + fresh._generators
        self._read = np.concatenate([self._read[kept], fresh._read])
        self._block = np.concatenate([self._block[kept], fresh._block])

    def _next_block(self, row: int) -> None:
        self._block[row] = self._generators[row].random(_BLOCK_TOKENS, dtype=np.float32)

    def next(self) -> NDArray[np.float32]:
        """Return the next number of each stream, [rows]."""
        places = self._read % _BLOCK_TOKENS
        for row in np.flatnonzero(places == 0):
            self._next_block(row)
        self._read += 1
        numbers: NDArray[np.float32] = self._block[np.arange(len(places)), places]
        return numbers


def sampling_logprobs(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return the log-probabilities of the distribution sampled from, [B, V] float32; -inf for what is cut off.

    The order is that of transformers and vLLM: temperature, top-k, then top-p of what is left.

    Args:
        logits: [B, V].
        temperature: above 0.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens with at least this much probability (arXiv 1904.09751).
    """
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        kept, indices = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, indices, kept)
    if top_p < 1.0:
        ordered, indices = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, indices, ordered)
    return logits.log_softmax(dim=-1)


def draw(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Invert the cumulative distribution: [B, V] log-probabilities and [B] uniforms in [0, 1) to [B] int64 tokens.

    The token is the first of non-zero probability whose cumulative probability exceeds the target. The target is below
    the largest sum, which rounding may leave off 1, so there is one.
    """
    probabilities = logprobs.exp()
    find = first_above if probabilities.device.type == "cpu" else first_above_in_any_order
    return find(probabilities, probabilities.cumsum(dim=-1), uniforms)


def first_above(probabilities: Tensor, cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """See `draw`. The sums [B, V] are in order, as on a CPU, which adds one number after the other.

    So a token without probability, whose sum is that before it, is never the first to exceed a target.
    """
    targets = _below(cumulative[:, -1:], uniforms)
    found = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    return found.clamp_(max=probabilities.shape[-1] - 1)  # nothing exceeds NaN


def first_above_in_any_order(probabilities: Tensor, cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """See `draw`. A GPU adds in blocks, and a sum may be smaller than the one before it. Overwrites the sums."""
    cumulative.masked_fill_(probabilities == 0, 0)
    targets = _below(cumulative.amax(dim=-1, keepdim=True), uniforms)
    return (cumulative > targets).to(torch.uint8).argmax(dim=-1)  # the first of equals


def _below(total: Tensor, uniforms: Tensor) -> Tensor:
    """The uniforms [B] as shares of the totals [B, 1], below them: [B, 1]."""
    return torch.minimum(uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))


def choose_tokens(
    logits: Tensor, sampling: SamplingConfig, uniforms: Tensor, forbidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose one token a row.

    Args:
        logits: [B, V].
        uniforms: [B] in [0, 1).
        forbidden: token ids that must not be chosen: those that no token has, and what ends a response before
            min_response_tokens.

    Returns:
        Tokens [B] int64 and their logprobs [B] float32 under the distribution sampled from. Temperature 0 takes
        the likeliest token; as that distribution is a point, the logprob given is the one at temperature 1.
    """
    if forbidden is not None and len(forbidden):
        logits = logits.index_fill(-1, forbidden, -torch.inf)
    if sampling.temperature == 0:
        logprobs = sampling_logprobs(logits, temperature=1.0)
        tokens = logprobs.argmax(dim=-1)
    else:
        logprobs = sampling_logprobs(logits, sampling.temperature, sampling.top_k, sampling.top_p)
        tokens = draw(logprobs, uniforms)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
