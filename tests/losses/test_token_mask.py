from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from reasoner_rl.losses.token_mask import high_entropy_mask


def kept(entropies, masks, share):
    found = high_entropy_mask([torch.tensor(e) for e in entropies], [torch.tensor(m) for m in masks], share)
    return [mask.tolist() for mask in found]


def test_the_highest_of_the_whole_batch():
    entropies = [[0.1, 2.0, 0.3], [1.0, 0.0]]
    assert kept(entropies, [[True] * 3, [True] * 2], 0.4) == [[False, True, False], [True, False]]
    assert kept(entropies, [[True] * 3, [True] * 2], 0.41) == [[False, True, True], [True, False]]
    assert kept(entropies, [[True] * 3, [True] * 2], 1.0) == [[True] * 3, [True] * 2]


def test_only_trained_tokens_are_counted_and_kept():
    masks = [[True, False, True], [True, True]]
    assert kept([[0.1, math.nan, 0.3], [1.0, 0.0]], masks, 0.5) == [[False, False, True], [True, False]]
    assert kept([[0.1, 9.0, 0.3], [1.0, 0.0]], masks, 1.0) == masks


def test_of_equal_entropies_the_earlier_is_kept():
    assert kept([[0.0, 1.0], [1.0, 1.0]], [[True] * 2] * 2, 0.5) == [[False, True], [True, False]]
    many = 10_000  # so many that an unstable sort mixes them
    assert kept([[0.0] * many], [[True] * many], 0.3) == [[True] * 3000 + [False] * 7000]


@pytest.mark.parametrize(
    ("tokens", "share", "count"), [(100, 0.07, 7), (1, 0.2, 1), (10, 0.2, 2), (11, 0.2, 3)]
)
def test_the_number_kept_is_rounded_up(tokens, share, count):
    entropies = torch.rand(tokens, generator=torch.Generator().manual_seed(0))
    (mask,) = high_entropy_mask([entropies], [torch.ones(tokens, dtype=torch.bool)], share)
    assert mask.sum() == count
    assert entropies[mask].min() > entropies[~mask].max() if count < tokens else mask.all()


def test_nothing_to_keep():
    assert kept([[1.0, 2.0]], [[False, False]], 0.5) == [[False, False]]
    assert high_entropy_mask([], [], 0.5) == []
    (empty,) = high_entropy_mask([torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)], 0.5)
    assert len(empty) == 0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        high_entropy_mask([], [], share)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_as_trl(flat, seed):
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    batch = flat.random([9, 4, 14, 6, 8], seed=seed)
    entropies = torch.rand(41, generator=torch.Generator().manual_seed(seed))
    alone = SimpleNamespace(
        accelerator=SimpleNamespace(pad_across_processes=lambda x, **_: x, gather=lambda x: x)
    )
    theirs = grpo_trainer.GRPOTrainer.get_high_entropy_mask(
        alone, flat.pad(entropies, batch), flat.pad(batch.loss_mask.float(), batch), 1 - 0.2
    )
    lengths = torch.bincount(batch.sequence_ids).tolist()
    ours = high_entropy_mask(entropies.split(lengths), batch.loss_mask.split(lengths), 0.2)
    assert torch.equal(torch.nn.utils.rnn.pad_sequence(ours, batch_first=True), theirs)
