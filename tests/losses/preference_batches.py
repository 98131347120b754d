"""Random batches of judged answers, for the tests of preference losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.types import IDLE, MicroBatch, TokenOutputs

LENGTHS = [5, 3, 1, 6, 4, 4, 2, 7]  # of four pairs, or of eight answers
KL_BASELINE = 0.7
Loss = Callable[[TokenOutputs, MicroBatch], tuple[Tensor, Any]]


def random_pairs(flat: Any, seed: int = 0) -> tuple[MicroBatch, Tensor]:
    """Four pairs, of whose tokens a few are not trained, and the policy's logprobs [N]."""
    return _random(flat, seed, groups=[0, 0, 1, 1, 2, 2, 3, 3], rewards=[1.0, 0.0] * 4)


def random_labels(flat: Any, seed: int = 0) -> tuple[MicroBatch, Tensor]:
    """Three good answers and five bad ones, with an estimate of the KL divergence, and the policy's logprobs [N]."""
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    return _random(flat, seed, rewards=rewards, kl_baseline=torch.full((sum(LENGTHS),), KL_BASELINE))


def _random(flat: Any, seed: int, **columns: Any) -> tuple[MicroBatch, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(LENGTHS)
    mask = torch.rand(tokens, generator=generator) > 0.2
    mask[torch.tensor([0, *LENGTHS]).cumsum(0)[:-1]] = True  # no answer without any
    logprobs = -2.0 * torch.rand(2, tokens, generator=generator) - 0.1
    batch = flat.make(LENGTHS, mask=mask, reference=logprobs[0], **columns)
    return batch, logprobs[1]


def outputs(logprobs: Tensor) -> TokenOutputs:
    return TokenOutputs(logprobs, torch.zeros_like(logprobs))


def with_an_idle_sequence(flat: Any, batch: MicroBatch, sequences: list[int]) -> tuple[Tensor, MicroBatch]:
    """The named sequences, of which the last is idle, and their tokens' indices."""
    [(tokens, part)] = flat.cut(batch, [sequences])
    idle = part.sequence_ids == len(sequences) - 1
    indices = (*part.sample_indices[:-1], IDLE)
    return tokens, dataclasses.replace(part, loss_mask=part.loss_mask & ~idle, sample_indices=indices)


def by_answer(values: Tensor, batch: MicroBatch) -> Tensor:
    """Sums over the trained tokens of each answer [S], without any of the code that is tested."""
    kept = values * batch.loss_mask
    return torch.stack([kept[batch.sequence_ids == number].sum() for number in range(batch.sequences)])
