"""From samples to optimizer updates: mini-batches, their division among ranks, micro-batches under a token budget.

The denominators of a mini-batch are counted here, before it is cut, so that the sum of the losses of its
micro-batches, on however many ranks, is the loss of the whole. The driver cuts (`plan_updates`); each rank packs its
share itself (`Share.pack`), so that what is derived from the samples is not sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.batching.balance import balance
from reasoner_rl.types import (
    IDLE,
    LossDenominators,
    MicroBatch,
    MiniBatch,
    ResponseColumns,
    TrainSample,
    constant_column,
)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How updates are cut."""

    micro_batch_tokens: int  # most tokens in one forward and backward pass
    max_response_tokens: int  # the constant length of Dr. GRPO's normalisation
    together: bool = False  # whether the samples of a group must be in the same micro-batch


@dataclass(frozen=True, slots=True)
class Share:
    """What one data-parallel rank trains on of a mini-batch: samples, and how they are cut into micro-batches."""

    samples: tuple[TrainSample, ...]
    # Where each of ``samples`` stood in the mini-batch; IDLE: it only keeps the rank in step with the others.
    sample_indices: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]  # indices into ``samples``, one tuple per micro-batch
    denominators: LossDenominators  # of the whole mini-batch

    def pack(self) -> MiniBatch:
        """Lay the sequences of each micro-batch end to end. Raises ValueError for an empty prompt or response."""
        return MiniBatch(tuple(self._pack(cut) for cut in self.cuts), self.denominators)

    def _pack(self, cut: Sequence[int]) -> MicroBatch:
        indices = [self.sample_indices[place] for place in cut]
        return pack([self.samples[place] for place in cut], indices, self.denominators)


def plan_updates(
    samples: Sequence[TrainSample], samples_per_update: int, limits: BatchLimits, ranks: int = 1
) -> list[list[Share]]:
    """Cut a step's samples, in order, into mini-batches of ``samples_per_update``, and each of them into shares.

    Where that leaves a rest, all are made a little smaller instead: an optimizer step on a few leftover samples
    would move the weights as far as any other. Groups that are to stay together are not cut.
    ranks: number of data-parallel ranks. Returns [ranks][updates].
    """
    units = _units(samples, limits.together)
    updates = min(-(-len(samples) // samples_per_update), len(units))
    ends = [len(units) * update // updates for update in range(updates + 1)]
    planned = []
    for start, end in pairwise(ends):
        chosen = [samples[index] for unit in units[start:end] for index in unit]
        planned.append(plan_shares(chosen, limits, ranks))
    return [[update[rank] for update in planned] for rank in range(ranks)]


def plan_mini_batch(
    samples: Sequence[TrainSample], micro_batch_tokens: int, max_response_tokens: int
) -> MiniBatch:
    """Make one optimizer update of all ``samples``, on one rank. Raises ValueError if there are none."""
    [share] = plan_shares(samples, BatchLimits(micro_batch_tokens, max_response_tokens), 1)
    return share.pack()


def plan_shares(samples: Sequence[TrainSample], limits: BatchLimits, ranks: int) -> list[Share]:
    """Make one optimizer update of all ``samples``, a share of it for each of ``ranks`` data-parallel ranks.

    Every rank gets about as many tokens, and as many micro-batches: passes are collective, so none may stop early.
    Raises ValueError if there are no samples.
    """
    if not samples:
        raise ValueError("a mini-batch needs at least one sample")
    denominators = count_denominators(samples, limits.max_response_tokens)
    units = _units(samples, limits.together)
    lengths = [sum(samples[index].tokens for index in unit) for unit in units]
    cuts = [
        [
            [units[share[place]] for place in cut]
            for cut in cut_by_tokens([lengths[unit] for unit in share], limits.micro_batch_tokens)
        ]
        for share in balance(lengths, ranks)
    ]
    passes = max(map(len, cuts))
    return [_share(samples, _cut_further(cut, passes), passes, denominators) for cut in cuts]


def _units(samples: Sequence[TrainSample], together: bool) -> list[list[int]]:
    """Indices of the samples that must not be separated: those of a group, which stand side by side, or each alone."""
    if not together:
        return [[index] for index in range(len(samples))]
    return [list(unit) for _, unit in groupby(range(len(samples)), key=lambda index: samples[index].group)]


def _cut_further(cuts: list[list[list[int]]], wanted: int) -> list[list[list[int]]]:
    """Halve the cut with the most units until there are ``wanted``, or none has two units left."""
    cuts = list(cuts)
    while len(cuts) < wanted and cuts:
        largest = max(cuts, key=len)
        if len(largest) < 2:
            break
        cuts.remove(largest)
        cuts += [largest[::2], largest[1::2]]
    return cuts


def _share(
    samples: Sequence[TrainSample],
    cuts: Sequence[Sequence[Sequence[int]]],
    passes: int,
    denominators: LossDenominators,
) -> Share:
    """The share with these cuts, each a list of units, filled up to ``passes`` micro-batches."""
    flat = [[index for unit in cut for index in unit] for cut in cuts]
    indices = [index for cut in flat for index in cut]
    chosen = [samples[index] for index in indices]
    bounds = [0]
    for cut in flat:
        bounds.append(bounds[-1] + len(cut))
    own_cuts = [tuple(range(start, end)) for start, end in pairwise(bounds)]
    if len(own_cuts) < passes:
        own_cuts += [(len(chosen),)] * (passes - len(own_cuts))
        chosen.append(_idle_sample(samples))
        indices.append(IDLE)
    return Share(tuple(chosen), tuple(indices), tuple(own_cuts), denominators)


def _idle_sample(samples: Sequence[TrainSample]) -> TrainSample:
    """What a rank reads while the others have work left: the shortest sample, of which nothing is trained."""
    shortest = min(samples, key=lambda sample: sample.tokens)
    return shortest.replace(loss_mask=torch.zeros_like(shortest.loss_mask))


def count_denominators(samples: Sequence[TrainSample], max_response_tokens: int) -> LossDenominators:
    """Count trained tokens, and responses and groups with at least one of them."""
    trained = [int(sample.loss_mask.sum()) for sample in samples]
    groups = {sample.group for sample, count in zip(samples, trained, strict=True) if count}
    return LossDenominators(
        tokens=float(sum(trained)),
        sequences=float(sum(count > 0 for count in trained)),
        max_response_tokens=float(max_response_tokens),
        groups=float(len(groups)),
    )


def cut_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences into micro-batches of at most ``budget`` tokens; one longer than that stands alone.

    Sequences of similar length come together, longest first: attention pads within a micro-batch, and memory runs
    out at the start of an update or not at all. Returns lists of indices into ``lengths``.
    """
    cuts: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not cuts or lengths[index] > room:
            cuts.append([])
            room = budget
        cuts[-1].append(index)
        room -= lengths[index]
    return cuts


def pack(
    samples: Sequence[TrainSample], sample_indices: Sequence[int], denominators: LossDenominators
) -> MicroBatch:
    """Lay samples end to end. Raises ValueError where a prompt or a response is empty."""
    for index, sample in zip(sample_indices, samples, strict=True):
        if not len(sample.prompt_ids) or not len(sample.response_ids):
            raise ValueError(
                f"sample {index} has an empty prompt or response; nothing predicts its first token"
            )
    lengths = torch.tensor([sample.tokens for sample in samples])
    ends = lengths.cumsum(0)
    starts = (ends - lengths).tolist()
    predictors = [
        torch.arange(len(s.response_ids)) + (start + len(s.prompt_ids) - 1)
        for s, start in zip(samples, starts, strict=True)
    ]
    responses = torch.tensor([len(sample.response_ids) for sample in samples])
    return MicroBatch(
        input_ids=torch.cat([part for s in samples for part in (s.prompt_ids, s.response_ids)]).long(),
        position_ids=torch.cat([torch.arange(length) for length in lengths.tolist()]),
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int32), ends.to(torch.int32)]),
        max_seqlen=int(lengths.max()),
        predictors=torch.cat(predictors),
        targets=torch.cat([s.response_ids for s in samples]).long(),
        sequence_ids=torch.repeat_interleave(torch.arange(len(samples)), responses),
        on_policy=torch.cat([constant_column(s.on_policy, len(s.response_ids)) for s in samples]),
        sample_indices=tuple(sample_indices),
        groups=tuple(sample.group for sample in samples),
        rewards=torch.tensor([sample.reward for sample in samples], dtype=torch.float32),
        denominators=denominators,
        supervised=samples[0].supervised,
        **_columns(samples),
    )


def _columns(samples: Sequence[TrainSample]) -> dict[str, Any]:
    """Every column of the responses, laid end to end."""
    names = [column.name for column in dataclasses.fields(ResponseColumns)]
    return {name: _cat_if_known([getattr(sample, name) for sample in samples], name) for name in names}


def _cat_if_known(parts: Sequence[Tensor | None], name: str) -> Tensor | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len(known) != len(parts):
        raise ValueError(f"{name} are known for {len(known)} of {len(parts)} samples; it must be all or none")
    return torch.cat(known)
