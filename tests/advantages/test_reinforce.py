from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from reasoner_rl.advantages.reinforce import reinforce_plus_plus, reinforce_plus_plus_baseline

MASKS = [torch.tensor([True, True, False]), torch.tensor([True]), torch.tensor([False, True])]


def pad(columns):
    return torch.nn.utils.rnn.pad_sequence([column.float() for column in columns], batch_first=True)


@pytest.fixture
def core_algos():
    pytest.importorskip("verl")
    return pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)


def test_returns_to_go_by_hand():
    rewards = [torch.tensor([-0.5, 2.0, 9.0]), torch.tensor([1.0]), torch.tensor([9.0, 0.0])]
    advantages, returns = reinforce_plus_plus(rewards, MASKS, gamma=0.5)
    assert [column.tolist() for column in returns] == [[0.5, 2.0, 0.0], [1.0], [0.0, 0.0]]
    # Whitened: mean 3.5 / 4, and squares 0.25 + 4 + 1 - 4 * 0.875^2 = 2.1875 over 3.
    scale = (2.1875 / 3) ** -0.5
    expected = [[-0.375 * scale, 1.125 * scale, 0.0], [0.125 * scale], [0.0, -0.875 * scale]]
    for found, wanted in zip(advantages, expected, strict=True):
        assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_baseline_by_hand():
    # Group means 1.5 and none; centred 0.5 (two tokens), -0.5, and the lone response's own score 3.
    advantages = reinforce_plus_plus_baseline([2.0, 1.0, 3.0], [4, 4, 5], MASKS)
    centre = (0.5 + 0.5 - 0.5 + 3.0) / 4
    scale = (sum((x - centre) ** 2 for x in (0.5, 0.5, -0.5, 3.0)) / 3) ** -0.5
    expected = [[(0.5 - centre) * scale] * 2 + [0.0], [(-0.5 - centre) * scale], [0.0, (3 - centre) * scale]]
    for found, wanted in zip(advantages, expected, strict=True):
        assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_an_untrained_response_counts_in_its_groups_mean():
    masks = [torch.tensor([True, True]), torch.tensor([False]), torch.tensor([True])]
    advantages = reinforce_plus_plus_baseline([1.0, 0.0, 0.5], [0, 0, 1], masks)
    # 1 - 0.5 is 0.5, as much as the lone response's score: nothing differs among the trained tokens.
    assert [column.tolist() for column in advantages] == [[0.0, 0.0], [0.0], [0.0]]


def test_nothing_to_train():
    assert reinforce_plus_plus([], []) == ([], [])
    advantages, returns = reinforce_plus_plus([torch.ones(2)], [torch.zeros(2, dtype=torch.bool)])
    assert advantages[0].tolist() == returns[0].tolist() == [0.0, 0.0]
    assert reinforce_plus_plus_baseline([], [], []) == []


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_same_as_verl(core_algos, gamma):
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 1, 14, 6, 3)
    rewards = [torch.randn(n, generator=generator) for n in lengths]
    masks = [torch.rand(n, generator=generator) > 0.2 for n in lengths]
    advantages, returns = reinforce_plus_plus(rewards, masks, gamma)
    theirs, their_returns = core_algos.compute_reinforce_plus_plus_outcome_advantage(
        pad(rewards), pad(masks), config=SimpleNamespace(gamma=gamma)
    )
    torch.testing.assert_close(pad(advantages), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pad(returns), their_returns, rtol=1e-5, atol=1e-5)


def test_the_baseline_variant_is_that_of_verl(core_algos):
    generator = torch.Generator().manual_seed(1)
    lengths, groups = (9, 1, 14, 6, 3, 5), [0, 0, 1, 1, 1, 2]
    scores = torch.rand(6, generator=generator)
    masks = [torch.rand(n, generator=generator) > 0.2 for n in lengths]
    rewards = torch.zeros(6, 14)
    rewards[:, 0] = scores
    theirs, _ = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, pad(masks), groups)
    ours = reinforce_plus_plus_baseline(scores.tolist(), groups, masks)
    torch.testing.assert_close(pad(ours), theirs, rtol=1e-5, atol=1e-5)
