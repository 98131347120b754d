"""From samples to optimizer updates: mini-batches, their division among ranks, micro-batches under a token budget.

The denominators of a mini-batch are counted here, before it is cut, so that the sum of the losses of its
micro-batches, on however many ranks, is the loss of the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from reasoner_rl.batching.balance import balance
from reasoner_rl.types import LossDenominators, MicroBatch, MiniBatch, TrainSample

IDLE = -1  # sample index of a sequence that only keeps a rank in step with the others


def plan_updates(
    samples: Sequence[TrainSample],
    samples_per_update: int,
    micro_batch_tokens: int,
    max_response_tokens: int,
    shards: int = 1,
) -> list[list[MiniBatch]]:
    """Cut a step's samples, in order, into mini-batches of ``samples_per_update``, and each of them into shards.

    Where that leaves a rest, all are made a little smaller instead: an optimizer step on a few leftover samples
    would move the weights as far as any other. Returns [shards][updates].
    """
    updates = -(-len(samples) // samples_per_update)
    bounds = [len(samples) * update // updates for update in range(updates + 1)]
    planned = [
        plan_shards(samples[start:end], micro_batch_tokens, max_response_tokens, shards)
        for start, end in pairwise(bounds)
    ]
    return [[update[shard] for update in planned] for shard in range(shards)]


def plan_mini_batch(
    samples: Sequence[TrainSample], micro_batch_tokens: int, max_response_tokens: int
) -> MiniBatch:
    """Make one optimizer update of all ``samples``. Raises ValueError if there are none."""
    [planned] = plan_shards(samples, micro_batch_tokens, max_response_tokens, 1)
    return planned


def plan_shards(
    samples: Sequence[TrainSample], micro_batch_tokens: int, max_response_tokens: int, shards: int
) -> list[MiniBatch]:
    """Make one optimizer update of all ``samples``, a part of it for each of ``shards`` data-parallel ranks.

    Every rank gets about as many tokens, and as many micro-batches: passes are collective, so none may stop early.
    Raises ValueError if there are no samples.
    """
    if not samples:
        raise ValueError("a mini-batch needs at least one sample")
    denominators = count_denominators(samples, max_response_tokens)
    lengths = [sample.tokens for sample in samples]
    cuts = [
        [
            [share[place] for place in cut]
            for cut in cut_by_tokens([lengths[index] for index in share], micro_batch_tokens)
        ]
        for share in balance(lengths, shards)
    ]
    passes = max(map(len, cuts))
    planned = []
    for shard in cuts:
        packed = [pack(samples, cut, denominators) for cut in _cut_further(shard, passes)]
        while len(packed) < passes:
            packed.append(_idle_micro_batch(samples, denominators))
        planned.append(MiniBatch(tuple(packed), denominators))
    return planned


def _cut_further(cuts: list[list[int]], wanted: int) -> list[list[int]]:
    """Halve the cut with the most sequences until there are ``wanted``, or none has two sequences left."""
    cuts = list(cuts)
    while len(cuts) < wanted and cuts:
        largest = max(cuts, key=len)
        if len(largest) < 2:
            break
        cuts.remove(largest)
        cuts += [largest[::2], largest[1::2]]
    return cuts


def _idle_micro_batch(samples: Sequence[TrainSample], denominators: LossDenominators) -> MicroBatch:
    """What a rank reads while the others have work left: the shortest sample, of which nothing is trained."""
    shortest = min(range(len(samples)), key=lambda index: samples[index].tokens)
    masked = samples[shortest].replace(loss_mask=torch.zeros_like(samples[shortest].loss_mask))
    return dataclasses.replace(pack([masked], [0], denominators), sample_indices=(IDLE,))


def count_denominators(samples: Sequence[TrainSample], max_response_tokens: int) -> LossDenominators:
    """Count trained tokens, and responses with at least one of them."""
    trained = [int(sample.loss_mask.sum()) for sample in samples]
    return LossDenominators(
        tokens=float(sum(trained)),
        sequences=float(sum(count > 0 for count in trained)),
        max_response_tokens=float(max_response_tokens),
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
    samples: Sequence[TrainSample], indices: Sequence[int], denominators: LossDenominators
) -> MicroBatch:
    """Lay the chosen samples end to end. Raises ValueError where a prompt or a response is empty."""
    chosen = [samples[index] for index in indices]
    for index, sample in zip(indices, chosen, strict=True):
        if not len(sample.prompt_ids) or not len(sample.response_ids):
            raise ValueError(
                f"sample {index} has an empty prompt or response; nothing predicts its first token"
            )
    lengths = torch.tensor([sample.tokens for sample in chosen])
    ends = lengths.cumsum(0)
    starts = (ends - lengths).tolist()
    predictors = [
        torch.arange(len(s.response_ids)) + (start + len(s.prompt_ids) - 1)
        for s, start in zip(chosen, starts, strict=True)
    ]
    responses = torch.tensor([len(sample.response_ids) for sample in chosen])
    return MicroBatch(
        input_ids=torch.cat([part for s in chosen for part in (s.prompt_ids, s.response_ids)]),
        position_ids=torch.cat([torch.arange(length) for length in lengths.tolist()]),
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int32), ends.to(torch.int32)]),
        max_seqlen=int(lengths.max()),
        predictors=torch.cat(predictors),
        targets=torch.cat([s.response_ids for s in chosen]),
        sequence_ids=torch.repeat_interleave(torch.arange(len(chosen)), responses),
        loss_mask=torch.cat([s.loss_mask for s in chosen]),
        advantages=torch.cat([s.advantages for s in chosen]),
        rollout_logprobs=torch.cat([s.rollout_logprobs for s in chosen]),
        on_policy=torch.cat([torch.full_like(s.loss_mask, s.on_policy) for s in chosen]),
        old_logprobs=_cat_if_known([s.old_logprobs for s in chosen], "old_logprobs"),
        reference_logprobs=_cat_if_known([s.reference_logprobs for s in chosen], "reference_logprobs"),
        returns=_cat_if_known([s.returns for s in chosen], "returns"),
        old_values=_cat_if_known([s.old_values for s in chosen], "old_values"),
        sample_indices=tuple(indices),
        denominators=denominators,
    )


def _cat_if_known(parts: Sequence[Tensor | None], name: str) -> Tensor | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len(known) != len(parts):
        raise ValueError(f"{name} are known for {len(known)} of {len(parts)} samples; it must be all or none")
    return torch.cat(known)
