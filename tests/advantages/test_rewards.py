from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.advantages.rewards import mean_kl, token_rewards


def test_the_score_stands_at_the_last_valid_token():
    assert token_rewards(2.0, torch.tensor([True, True, True])).tolist() == [0.0, 0.0, 2.0]
    assert token_rewards(2.0, torch.tensor([True, True, False])).tolist() == [0.0, 2.0, 0.0]
    assert token_rewards(-1.0, torch.tensor([True])).tolist() == [-1.0]


def test_penalties_are_subtracted_where_tokens_are_valid():
    mask = torch.tensor([True, False, True, False])
    penalties = torch.tensor([0.25, math.nan, -0.5, 9.0])
    rewards = token_rewards(1.0, mask, penalties)
    assert rewards.tolist() == [-0.25, 0.0, 1.5, 0.0]
    assert rewards.dtype == torch.float32
    assert penalties[0].item() == 0.25, "the penalties are left as they are"


def test_without_valid_tokens_there_is_no_reward():
    assert token_rewards(5.0, torch.tensor([False, False]), torch.ones(2)).tolist() == [0.0, 0.0]
    assert token_rewards(5.0, torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_mean_kl_weighs_responses_equally():
    estimates = [torch.tensor([0.1, 0.3, 9.0]), torch.tensor([1.0]), torch.tensor([7.0])]
    masks = [torch.tensor([True, True, False]), torch.tensor([True]), torch.tensor([False])]
    assert mean_kl(estimates, masks) == pytest.approx((0.2 + 1.0) / 2)
    assert mean_kl(estimates[2:], masks[2:]) == mean_kl([], []) == 0.0


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_rewards_and_controller_are_those_of_verl(kind):
    pytest.importorskip("verl")
    trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer", exc_type=ImportError)
    from tensordict import TensorDict
    from verl import DataProto

    from reasoner_rl.losses.kl import KlController, kl_estimate

    generator = torch.Generator().manual_seed(0)
    lengths, scores = [4, 1, 6], [1.0, 0.0, -1.0]
    logprobs = [-torch.rand(n, generator=generator) for n in lengths]
    reference = [-torch.rand(n, generator=generator) for n in lengths]
    masks = [torch.ones(n, dtype=torch.bool) for n in lengths]
    controller = KlController(0.2, target=0.1, horizon=100)

    estimates = [kl_estimate(own, other, kind) for own, other in zip(logprobs, reference, strict=True)]
    rewards = [
        token_rewards(score, mask, controller.coefficient * estimate)
        for score, mask, estimate in zip(scores, masks, estimates, strict=True)
    ]

    def pad(columns):
        return torch.nn.utils.rnn.pad_sequence([column.float() for column in columns], batch_first=True)

    batch = {
        "response_mask": pad(masks),
        "token_level_scores": pad([token_rewards(*given) for given in zip(scores, masks, strict=True)]),
        "old_log_probs": pad(logprobs),
        "ref_log_prob": pad(reference),
    }
    theirs = trainer.core_algos.AdaptiveKLController(0.2, 0.1, 100)
    data, metrics = trainer.apply_kl_penalty(DataProto(TensorDict(batch, batch_size=3)), theirs, kind)
    torch.testing.assert_close(pad(rewards), data.batch["token_level_rewards"], rtol=1e-5, atol=1e-6)
    kl = mean_kl(estimates, masks)
    assert kl == pytest.approx(metrics["actor/reward_kl_penalty"], rel=1e-5)
    assert controller.updated(kl, 3).coefficient == pytest.approx(theirs.value, rel=1e-6)
