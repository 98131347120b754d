"""Cutting and packing: what goes in comes out once, in a place that can be found again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoner_rl.batching.plan import (
    IDLE,
    BatchLimits,
    Share,
    cut_by_tokens,
    pack,
    plan_mini_batch,
    plan_shares,
    plan_updates,
)
from reasoner_rl.types import LossDenominators, MiniBatch, TrainSample


def sample(
    prompt: list[int], response: list[int], mask: list[bool] | None = None, **fields: object
) -> TrainSample:
    count = len(response)
    return TrainSample(
        prompt_ids=torch.tensor(prompt, dtype=torch.int64),
        response_ids=torch.tensor(response, dtype=torch.int64),
        loss_mask=torch.tensor(mask if mask is not None else [True] * count, dtype=torch.bool),
        advantages=torch.arange(count, dtype=torch.float32),
        rollout_logprobs=-torch.arange(count, dtype=torch.float32),
    ).replace(**fields)


def test_packs_two_sequences_by_hand() -> None:
    samples = [sample([1, 2, 3], [4, 5]), sample([6], [7, 8, 9], group=4)]
    batch = pack([samples[1], samples[0]], [1, 0], LossDenominators(5, 2, 8))
    assert batch.input_ids.tolist() == [6, 7, 8, 9, 1, 2, 3, 4, 5]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert batch.cu_seqlens.tolist() == [0, 4, 9]
    assert batch.max_seqlen == 5
    assert batch.targets.tolist() == [7, 8, 9, 4, 5]
    assert batch.predictors.tolist() == [0, 1, 2, 6, 7]
    assert torch.equal(batch.input_ids[batch.predictors + 1], batch.targets)
    assert batch.sequence_ids.tolist() == [0, 0, 0, 1, 1]
    assert (batch.sample_indices, batch.groups) == ((1, 0), (4, 0))
    assert batch.advantages.tolist() == [0, 1, 2, 0, 1]
    assert batch.old_logprobs is batch.returns is batch.old_values is None
    assert batch.on_policy.all()
    stale = pack([samples[1].replace(on_policy=False), samples[0]], [1, 0], LossDenominators(5, 2, 8))
    assert stale.on_policy.tolist() == [False] * 3 + [True] * 2
    parts = batch.split_responses(batch.rollout_logprobs)
    assert {index: part.tolist() for index, part in parts.items()} == {1: [0, -1, -2], 0: [0, -1]}


def test_packs_what_a_critic_learns_from() -> None:
    first = sample([1, 2], [3], returns=torch.tensor([1.0]), old_values=torch.tensor([0.5]))
    second = sample([1], [4, 5], returns=torch.tensor([2.0, 3.0]), old_values=torch.tensor([0.25, 0.75]))
    batch = pack([second, first], [1, 0], LossDenominators(3, 2, 8))
    assert batch.returns.tolist() == [2.0, 3.0, 1.0]
    assert batch.old_values.tolist() == [0.25, 0.75, 0.5]
    with pytest.raises(ValueError, match="returns are known for 1 of 2"):
        pack([first.replace(returns=None), second], [0, 1], LossDenominators(3, 2, 8))


def test_denominators_count_the_whole_mini_batch_before_it_is_cut() -> None:
    samples = [
        sample([1], [2, 3, 4], [True, False, True], group=7),
        sample([1], [2, 3], [False, False], group=8),
        sample([1], [2], [True], group=7),
    ]
    whole = plan_mini_batch(samples, micro_batch_tokens=4, max_response_tokens=16)
    assert len(whole.micro_batches) == 3
    assert whole.denominators == LossDenominators(tokens=3, sequences=2, max_response_tokens=16, groups=1)
    assert all(batch.denominators == whole.denominators for batch in whole.micro_batches)
    assert sorted(index for batch in whole.micro_batches for index in batch.sample_indices) == [0, 1, 2]


def test_cuts_respect_the_budget_and_keep_long_ones_apart() -> None:
    lengths = [3, 9, 4, 20, 5, 1, 6]
    cuts = cut_by_tokens(lengths, 10)
    assert sorted(index for cut in cuts for index in cut) == list(range(7))
    assert [cut for cut in cuts if sum(lengths[i] for i in cut) > 10] == [[3]]
    assert cut_by_tokens([], 10) == []


def test_updates_follow_the_order_of_the_samples() -> None:
    samples = [sample([1], [index]) for index in range(10)]
    [updates] = packed(plan_updates(samples, 4, BatchLimits(1000, 8)))
    assert [sorted(torch.cat([b.targets for b in u.micro_batches]).tolist()) for u in updates] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8, 9],
    ], "no update of two leftover samples"
    [updates] = packed(plan_updates(samples[:8], 4, BatchLimits(1000, 8)))
    assert [len(update.micro_batches[0].sample_indices) for update in updates] == [4, 4]


def test_every_share_of_every_update_makes_as_many_passes() -> None:
    samples = [sample([1], [7] * length) for length in (19, 1, 1, 1, 5, 3, 1, 1)]
    by_rank = packed(plan_updates(samples, 4, BatchLimits(20, 32), ranks=2))
    assert [len(updates) for updates in by_rank] == [2, 2]
    for update in range(2):
        parts = [updates[update] for updates in by_rank]
        assert len({len(part.micro_batches) for part in parts}) == 1
        assert parts[0].denominators == parts[1].denominators
        seen = [
            i for part in parts for batch in part.micro_batches for i in batch.sample_indices if i != IDLE
        ]
        assert sorted(seen) == [0, 1, 2, 3]
    long, short = (updates[0].micro_batches for updates in by_rank)
    assert {sum(len(b.input_ids) for b in long), sum(len(b.input_ids) for b in short)} == {20, 6}


def test_a_rank_with_short_sequences_cuts_them_up_rather_than_idle() -> None:
    samples = [sample([1], [7] * length) for length in (19, 19, *[3] * 10)]
    [shares] = packed([plan_shares(samples, BatchLimits(20, 32), 2)])
    assert [len(share.micro_batches) for share in shares] == [2, 2]
    assert all(IDLE not in batch.sample_indices for share in shares for batch in share.micro_batches)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    ranks=st.integers(1, 6),
    budget=st.integers(8, 60),
)
def test_shares_hold_every_sample_once_within_the_budget(lengths: list[int], ranks: int, budget: int) -> None:
    samples = [sample([1], [index] * length) for index, length in enumerate(lengths)]
    shares = plan_shares(samples, BatchLimits(budget, 32), ranks)
    planned = [share.pack() for share in shares]
    assert len({len(share.micro_batches) for share in planned}) == 1
    seen: list[int] = []
    for batch in [batch for share in planned for batch in share.micro_batches]:
        tokens = len(batch.input_ids)
        assert tokens <= budget or len(batch.sample_indices) == 1
        if batch.sample_indices == (IDLE,):
            assert not batch.loss_mask.any(), "an idle rank trains on nothing"
            assert tokens == min(lengths) + 1, "and reads as little as it can"
        else:
            seen += batch.sample_indices
            for index, response in batch.split_responses(batch.targets).items():
                assert response.tolist() == [index] * lengths[index]
    assert sorted(seen) == list(range(len(lengths)))
    for share in shares:
        own = [index for index in share.sample_indices if index != IDLE]
        assert len(share.samples) - len(own) in (0, 1), "nothing is sent that the rank does not read"
        assert all(share.samples[place] is samples[index] for place, index in enumerate(own))


def test_a_share_is_sent_as_samples_and_each_rank_packs_its_own() -> None:
    samples = [sample([1, 2], [7] * length) for length in (5, 3, 4)]
    [share] = plan_shares(samples, BatchLimits(9, 32), 1)
    assert isinstance(share, Share)
    assert sorted(share.sample_indices) == [0, 1, 2]
    assert [sum(share.samples[place].tokens for place in cut) for cut in share.cuts] == [7, 6, 5]
    assert [batch.sample_indices for batch in share.pack().micro_batches] == [(0,), (2,), (1,)]


@st.composite
def groups_of_samples(draw: st.DrawFn) -> list[TrainSample]:
    """Samples of groups side by side; some groups have nothing to train on."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    samples: list[TrainSample] = []
    for group, size in enumerate(sizes):
        trained = draw(st.booleans())
        for _ in range(size):
            length = draw(st.integers(1, 12))
            mask = [trained] * length
            samples.append(sample([1], [len(samples)] * length, mask, group=group))
    return samples


@given(
    samples=groups_of_samples(),
    samples_per_update=st.integers(1, 12),
    ranks=st.integers(1, 4),
    budget=st.integers(8, 60),
)
def test_groups_that_are_to_stay_together_are_not_cut(
    samples: list[TrainSample], samples_per_update: int, ranks: int, budget: int
) -> None:
    """Neither into updates, nor among ranks, nor into micro-batches."""
    limits = BatchLimits(budget, 32, together=True)
    by_rank = packed(plan_updates(samples, samples_per_update, limits, ranks))
    updates = {len(rank) for rank in by_rank}
    assert len(updates) == 1
    assert 1 <= updates.pop() <= -(-len(samples) // samples_per_update)
    seen: list[int] = []
    for parts in zip(*by_rank, strict=True):
        assert len({len(part.micro_batches) for part in parts}) == 1, "as many passes on every rank"
        trained, own = set(), []
        for batch in [batch for part in parts for batch in part.micro_batches]:
            if batch.sample_indices == (IDLE,):
                assert not batch.loss_mask.any()
                continue
            tokens = [int(response[0]) for response in batch.split_responses(batch.targets).values()]
            own += tokens
            for group in set(batch.groups):
                whole = [index for index, s in enumerate(samples) if s.group == group]
                assert [index for index in tokens if samples[index].group == group] == whole
            assert len(batch.input_ids) <= budget or len(set(batch.groups)) == 1
            trained |= {samples[index].group for index in tokens if samples[index].loss_mask.any()}
        denominators = parts[0].denominators
        assert all(part.denominators == denominators for part in parts)
        assert denominators.groups == len(trained)
        assert denominators.sequences == sum(bool(samples[index].loss_mask.any()) for index in own)
        assert own, "no update of nothing"
        seen += own
    assert sorted(seen) == list(range(len(samples)))


def packed(planned: list[list[Share]]) -> list[list[MiniBatch]]:
    return [[share.pack() for share in shares] for shares in planned]


def test_refuses_what_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="sample 0 has an empty prompt"):
        plan_mini_batch([sample([], [1])], 10, 8)
    with pytest.raises(ValueError, match="at least one sample"):
        plan_mini_batch([], 10, 8)
    known = sample([1], [2], old_logprobs=torch.zeros(1))
    with pytest.raises(ValueError, match="old_logprobs are known for 1 of 2"):
        plan_mini_batch([known, sample([1], [2])], 10, 8)
