"""Flat batches for the tests of losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from reasoner_rl.types import LossDenominators, MicroBatch


@dataclass(frozen=True)
class FlatBatches:
    """Makes, cuts and pads batches in which only the fields that losses read mean anything."""

    def make(
        self,
        lengths: Sequence[int],
        *,
        advantages: Sequence[float] | Tensor | None = None,
        mask: Sequence[bool] | Tensor | None = None,
        rollout: Sequence[float] | Tensor | None = None,
        on_policy: Sequence[bool] | Tensor | None = None,
        old: Sequence[float] | Tensor | None = None,
        reference: Sequence[float] | Tensor | None = None,
        returns: Sequence[float] | Tensor | None = None,
        old_values: Sequence[float] | Tensor | None = None,
        kl_baseline: Sequence[float] | Tensor | None = None,
        groups: Sequence[int] | None = None,
        rewards: Sequence[float] | None = None,
        max_response_tokens: float = 10.0,
    ) -> MicroBatch:
        """One batch of responses of the given lengths; per-token fields are flat. Unset: 0, and masks True."""
        tokens = sum(lengths)
        starts = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        loss_mask = torch.ones(tokens, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
        sequence_ids = torch.repeat_interleave(torch.arange(len(lengths)), starts.diff())

        def numbers(given: Sequence[float] | Tensor | None) -> Tensor:
            return torch.zeros(tokens) if given is None else torch.as_tensor(given, dtype=torch.float32)

        return MicroBatch(
            input_ids=torch.zeros(tokens, dtype=torch.int64),
            position_ids=torch.zeros(tokens, dtype=torch.int64),
            cu_seqlens=starts.to(torch.int32),
            max_seqlen=max(lengths, default=0),
            predictors=torch.arange(tokens),
            targets=torch.zeros(tokens, dtype=torch.int64),
            sequence_ids=sequence_ids,
            loss_mask=loss_mask,
            advantages=numbers(advantages),
            rollout_logprobs=numbers(rollout),
            on_policy=torch.ones(tokens, dtype=torch.bool)
            if on_policy is None
            else torch.as_tensor(on_policy),
            old_logprobs=None if old is None else numbers(old),
            reference_logprobs=None if reference is None else numbers(reference),
            returns=None if returns is None else numbers(returns),
            old_values=None if old_values is None else numbers(old_values),
            sample_indices=tuple(range(len(lengths))),
            kl_baseline=None if kl_baseline is None else numbers(kl_baseline),
            groups=tuple(range(len(lengths)) if groups is None else groups),
            rewards=torch.zeros(len(lengths)) if rewards is None else torch.tensor(rewards),
            denominators=LossDenominators(
                tokens=float(loss_mask.sum()),
                sequences=float(len(sequence_ids[loss_mask].unique())),
                max_response_tokens=max_response_tokens,
                groups=float(len(set(range(len(lengths)) if groups is None else groups))),
            ),
        )

    def random(self, lengths: Sequence[int], seed: int = 0, max_response_tokens: float = 10.0) -> MicroBatch:
        """Every field drawn at random: a fifth of the tokens masked, one advantage a response."""
        generator = torch.Generator().manual_seed(seed)
        tokens = sum(lengths)
        old = -2.0 * torch.rand(tokens, generator=generator) - 0.1
        noise = torch.randn(2, tokens, generator=generator)
        advantages = torch.randn(len(lengths), generator=generator)
        return self.make(
            lengths,
            advantages=advantages.repeat_interleave(torch.tensor(lengths)),
            mask=torch.rand(tokens, generator=generator) > 0.2,
            rollout=old + 0.3 * noise[0],
            old=old,
            reference=old + 0.5 * noise[1],
            max_response_tokens=max_response_tokens,
        )

    def cut(self, batch: MicroBatch, parts: Sequence[Sequence[int]]) -> list[tuple[Tensor, MicroBatch]]:
        """Micro-batches of the named sequences, after their tokens' indices; denominators stay the whole's."""
        return [self._pick(batch, sequences) for sequences in parts]

    def _pick(self, batch: MicroBatch, sequences: Sequence[int]) -> tuple[Tensor, MicroBatch]:
        where = [(batch.sequence_ids == sequence).nonzero()[:, 0] for sequence in sequences]
        tokens = torch.cat(where)
        changes = {
            field.name: value[tokens]
            for field in dataclasses.fields(batch)
            if field.name not in ("cu_seqlens", "rewards")
            and isinstance(value := getattr(batch, field.name), Tensor)
        }
        changes["sequence_ids"] = torch.repeat_interleave(
            torch.arange(len(where)), torch.tensor([len(ids) for ids in where])
        )
        return tokens, dataclasses.replace(
            batch,
            **changes,
            sample_indices=tuple(sequences),
            groups=tuple(batch.groups[sequence] for sequence in sequences),
            rewards=batch.rewards[list(sequences)],
        )

    def pad(self, values: Tensor, batch: MicroBatch) -> Tensor:
        """[S, longest response] from [N], filled with zeros on the right: the layout of TRL and verl."""
        parts = [values[batch.sequence_ids == sequence] for sequence in range(batch.sequences)]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


@pytest.fixture(scope="session")
def flat() -> FlatBatches:
    return FlatBatches()


@pytest.fixture(scope="session")
def gradient_of() -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    """The gradient of a scalar function at a point."""

    def compute(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        point = at.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(point), point)
        return gradient

    return compute
