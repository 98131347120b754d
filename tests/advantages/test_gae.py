from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.advantages.gae import advantages_and_returns, batch_gae, gae, last_value, policy_lambda
from reasoner_rl.config.ppo import GaeConfig

ALL = torch.ones(3, dtype=torch.bool)
REWARDS, VALUES = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.2, 0.6])


def random_batch(seed, lengths=(9, 1, 14, 6, 3)):
    """Rewards, values and masks; a fifth of the tokens is not valid, among them some in the middle and at the end."""
    generator = torch.Generator().manual_seed(seed)
    rewards = [torch.randn(n, generator=generator) for n in lengths]
    values = [torch.randn(n, generator=generator) for n in lengths]
    masks = [torch.rand(n, generator=generator) > 0.2 for n in lengths]
    return rewards, values, masks


def pad(columns):
    return torch.nn.utils.rnn.pad_sequence([column.float() for column in columns], batch_first=True)


def test_by_hand():
    # Deltas: 0 + 0.9 * 0.2 - 0.5 = -0.32, 0.9 * 0.6 - 0.2 = 0.34, 1 - 0.6 = 0.4; each step back times 0.9 * 0.5.
    last, middle = 0.4, 0.34 + 0.45 * 0.4
    found = gae(REWARDS, VALUES, ALL, gamma=0.9, lam=0.5)
    assert found.tolist() == pytest.approx([-0.32 + 0.45 * middle, middle, last], abs=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("lam", "expected"),
    [(1.0, [0.5, 0.8, 0.4]), (0.0, [-0.3, 0.4, 0.4])],  # the return minus the value; one step ahead
)
def test_both_ends_of_lambda(lam, expected):
    assert gae(REWARDS, VALUES, ALL, 1.0, lam).tolist() == pytest.approx(expected, abs=1e-6)


def test_bootstrap_is_the_value_after_the_last_token():
    found = gae(REWARDS, VALUES, ALL, gamma=0.9, lam=1.0, bootstrap=2.0)
    assert found[2].item() == pytest.approx(1 + 0.9 * 2.0 - 0.6)
    assert found[0].item() == pytest.approx(0.81 + 0.9**3 * 2.0 - 0.5)


def test_tokens_that_are_not_valid_are_skipped():
    mask = torch.tensor([True, False, True, True, False])
    rewards = torch.tensor([0.0, math.nan, 0.0, 1.0, math.inf])
    values = torch.tensor([0.5, math.nan, 0.2, 0.6, 7.0])
    found = gae(rewards, values, mask, 0.9, 0.5)
    assert found[mask].tolist() == gae(REWARDS, VALUES, ALL, 0.9, 0.5).tolist()
    assert found[~mask].tolist() == [0.0, 0.0]


def test_one_token_and_none():
    one = torch.tensor([True])
    assert gae(torch.tensor([1.0]), torch.tensor([0.25]), one, 0.9, 0.9).tolist() == [0.75]
    assert gae(torch.tensor([1.0]), torch.tensor([0.25]), ~one, 0.9, 0.9, bootstrap=3.0).tolist() == [0.0]
    assert gae(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool), 1.0, 1.0).tolist() == []
    assert batch_gae([], [], [], 1.0, [], []) == []


def test_a_batch_is_its_responses_one_by_one():
    rewards, values, masks = random_batch(0, lengths=[1, 7, 0, 12, 3] * 120)  # more than are summed at once
    lams = [0.5 + 0.4 * (i % 5) / 5 for i in range(600)]
    together = batch_gae(rewards, values, masks, 0.97, lams, [0.1 * i for i in range(600)])
    for i in (0, 1, 2, 3, 311, 599):
        alone = gae(rewards[i], values[i], masks[i], 0.97, lams[i], 0.1 * i)
        assert together[i].tolist() == alone.tolist()


def test_a_long_response_is_summed_exactly():
    tokens = 20_000
    rewards = torch.full((tokens,), 0.1)
    found = gae(rewards, torch.zeros(tokens), torch.ones(tokens, dtype=torch.bool), 1.0, 1.0)
    assert found[0].item() == pytest.approx(0.1 * tokens, rel=1e-7)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.97, 0.9), (0.9, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_as_verl(gamma, lam, seed):
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    rewards, values, masks = random_batch(seed)
    config = GaeConfig(gamma=gamma, lam=lam)
    advantages, returns = advantages_and_returns(rewards, values, masks, [True] * 5, config)
    mask = pad(masks)
    theirs, their_returns = core_algos.compute_gae_advantage_return(
        pad(rewards), pad(values), mask, gamma, lam
    )
    torch.testing.assert_close(pad(advantages), theirs * mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pad(returns), their_returns * mask, rtol=1e-5, atol=1e-5)


PLAIN = GaeConfig(gamma=1.0, lam=0.5, whiten=False)


def test_returns_are_what_is_left_of_the_reward_where_lambda_is_one():
    config = GaeConfig(lam=0.5, critic_lam=1.0, whiten=False)
    (advantages,), (returns,) = advantages_and_returns([REWARDS], [VALUES], [ALL], [False], config)
    assert returns.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert advantages.tolist() == gae(REWARDS, VALUES, ALL, 1.0, 0.5).tolist()


def test_without_a_lambda_of_its_own_the_critic_has_the_policys():
    (advantages,), (returns,) = advantages_and_returns([REWARDS], [VALUES], [ALL], [False], PLAIN)
    assert returns.tolist() == pytest.approx((VALUES + advantages).tolist())


@pytest.mark.parametrize(("bootstrap", "after"), [(True, 0.6), (False, 0.0)])
def test_truncated_responses_are_bootstrapped_if_asked(bootstrap, after):
    config = PLAIN.model_copy(update={"bootstrap_truncated": bootstrap})
    advantages, _ = advantages_and_returns([REWARDS] * 2, [VALUES] * 2, [ALL] * 2, [True, False], config)
    assert advantages[0].tolist() == gae(REWARDS, VALUES, ALL, 1.0, 0.5, bootstrap=after).tolist()
    assert advantages[1].tolist() == gae(REWARDS, VALUES, ALL, 1.0, 0.5).tolist()


def test_last_value_is_that_of_the_last_valid_token():
    assert last_value(VALUES, torch.tensor([True, True, False])) == pytest.approx(0.2)
    assert last_value(VALUES, ~ALL) == 0.0


@pytest.mark.parametrize(("length", "lam"), [(1, 0.0), (20, 0.0), (40, 0.5), (2000, 0.99)])
def test_length_adaptive_lambda(length, lam):
    config = GaeConfig(critic_lam=1.0, length_adaptive_alpha=0.05)
    assert policy_lambda(config, length) == pytest.approx(lam)
    assert policy_lambda(PLAIN, length) == 0.5


def test_each_response_has_the_lambda_of_its_valid_length():
    rewards, values, masks = random_batch(3)
    config = GaeConfig(critic_lam=1.0, length_adaptive_alpha=0.5, whiten=False)
    advantages, returns = advantages_and_returns(rewards, values, masks, [False] * 5, config)
    for i in range(5):
        length = max(int(masks[i].sum()), 1)
        own = gae(rewards[i], values[i], masks[i], 1.0, max(0.0, 1 - 2 / length))
        assert advantages[i].tolist() == pytest.approx(own.tolist())
        critic = gae(rewards[i], values[i], masks[i], 1.0, 1.0) + values[i]
        assert returns[i][masks[i]].tolist() == pytest.approx(critic[masks[i]].tolist())


def test_a_lambda_that_is_the_critics_for_one_response_is_not_so_for_all():
    config = GaeConfig(critic_lam=0.5, length_adaptive_alpha=0.5, whiten=False)
    rewards, values = [torch.ones(4), torch.ones(8)], [torch.zeros(4), torch.arange(8.0)]
    masks = [torch.ones(n, dtype=torch.bool) for n in (4, 8)]
    advantages, _ = advantages_and_returns(rewards, values, masks, [False] * 2, config)
    for i, lam in enumerate((0.5, 0.75)):
        assert advantages[i].tolist() == gae(rewards[i], values[i], masks[i], 1.0, lam).tolist()
