"""What REINFORCE++, CISPO and the group family with KL in the reward prepare, by hand. The models are fakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_models import Batch, online_config, prepared_columns
from pydantic import ValidationError
from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.metrics import values
from reasoner_rl.types import TokenOutputs

SCORES, GROUPS = [1.0, 0.0, -1.0, 1.0], [0, 0, 1, 1]


def built(updates: int = 1, **algorithm: Any) -> Algorithm:
    return build_algorithm(online_config(algorithm, updates=updates))


def make_batch() -> Batch:
    return Batch([4, 1, 6, 3], SCORES, GROUPS)


def whitened(columns: list[Tensor]) -> list[list[float]]:
    flat = torch.cat(columns)
    return [((column - flat.mean()) / flat.std()).tolist() for column in columns]


def assert_close(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_plus_plus_whitens_discounted_returns(gamma: float) -> None:
    batch = make_batch()
    found = prepared_columns(built(kind="reinforce_plus_plus", gamma=gamma), batch, "advantages")
    returns = [
        score * gamma ** torch.arange(length - 1, -1, -1).double()
        for score, length in zip(SCORES, (4, 1, 6, 3), strict=True)
    ]
    assert_close(found, whitened(returns))
    assert batch.calls == [], "a single update, and no KL: nothing needs logprobs"


def test_reinforce_plus_plus_takes_kl_off_every_token() -> None:
    batch = make_batch()
    algorithm = built(
        kind="reinforce_plus_plus", kl_in_reward={"coefficient": 0.3, "estimator": "k2"}, gamma=0.9
    )
    samples, metrics = algorithm.prepare(batch.samples, batch.models())
    assert batch.calls == ["reference.logprobs", "policy.logprobs"]
    returns = []
    for score, own, other in zip(SCORES, batch.policy, batch.reference, strict=True):
        rewards = (-0.3 * 0.5 * (own - other).square()).double()
        rewards[-1] += score
        for token in range(len(rewards) - 2, -1, -1):
            rewards[token] += 0.9 * rewards[token + 1]
        returns.append(rewards)
    assert_close([sample.advantages.tolist() for sample in samples], whitened(returns))
    measured = values(metrics)
    flat = torch.cat([sample.advantages for sample in samples])
    assert measured["reward/kl_coefficient"] == pytest.approx(0.3)
    assert measured["advantage/token_max"] == pytest.approx(flat.max().item(), abs=1e-6)
    assert measured["advantage/token_mean"] == pytest.approx(0, abs=1e-6)


def test_the_baseline_variant_takes_the_groups_mean_off_first() -> None:
    batch = make_batch()
    batch.samples = batch.masked(3)  # it counts in its group's mean, and not in the whitening
    found = prepared_columns(built(kind="reinforce_plus_plus", baseline="group"), batch, "advantages")
    centred = [torch.full((4,), 0.5), torch.full((1,), -0.5), torch.full((6,), -1.0)]
    assert_close(found, [*whitened(centred), [0.0] * 3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kl_in_reward": {"coefficient": 0.1}}, r"algorithm\.kl_in_reward is per token"),
        ({"gamma": 0.9}, r"algorithm\.gamma is for baseline 'none'; it is 0\.9"),
    ],
)
def test_the_baseline_variant_refuses_what_is_per_token(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        built(kind="reinforce_plus_plus", baseline="group", **wrong)


@pytest.mark.parametrize("baseline", ["none", "group"])
def test_the_adaptive_coefficient_of_reinforce_plus_plus_is_saved(baseline: str) -> None:
    kl = {"coefficient": 0.2, "controller": "adaptive", "target": 0.01, "horizon": 10}
    algorithm = built(kind="reinforce_plus_plus", **({"kl_in_reward": kl} if baseline == "none" else {}))
    algorithm.restore({"kl_coefficient": 0.5})
    expected = 0.5 if baseline == "none" else 0.0
    assert algorithm.state() == {"kl_coefficient": expected}


def test_cispo_is_grpos_advantage_with_the_clipped_ratio_as_a_weight() -> None:
    batch = make_batch()
    algorithm = built(kind="cispo", updates=2)
    samples, metrics = algorithm.prepare(batch.samples, batch.models())
    assert metrics == {}
    assert batch.calls == ["policy.logprobs"]
    for sample, sign, old in zip(samples, (1, -1, -1, 1), batch.policy, strict=True):
        # Two scores a group: each is a distance of 0.5 or 1 from its mean, with n - 1 in the deviation.
        torch.testing.assert_close(sample.advantages, torch.full_like(sample.advantages, sign * 0.5**0.5))
        assert torch.equal(sample.old_logprobs, old)  # type: ignore[arg-type]
    packed = plan_mini_batch(samples, 1000, 8).micro_batches[0]
    assert packed.old_logprobs is not None
    ratios = torch.linspace(0.1, 8.0, 14)  # the upper bound is 5, and there is no lower one
    logprobs = (packed.old_logprobs + ratios.log()).requires_grad_()
    loss, _ = algorithm.losses["policy"](TokenOutputs(logprobs, torch.zeros(14)), packed)
    loss.backward()
    assert logprobs.grad is not None
    expected = -ratios.clamp(max=5.0) * packed.advantages / 14
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(float((expected * logprobs.detach()).sum()), rel=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_group_family_takes_the_kl_of_a_whole_response_off_its_score(estimator: Any) -> None:
    kl = {"coefficient": 0.4, "estimator": estimator, "controller": "adaptive", "target": 0.01, "horizon": 10}
    algorithm, coefficient = built(kind="rloo", kl_in_reward=kl), 0.4
    for _ in range(2):
        batch = make_batch()
        samples, metrics = algorithm.prepare(batch.samples, batch.models())
        estimates = [
            kl_estimate(own, other, estimator)
            for own, other in zip(batch.policy, batch.reference, strict=True)
        ]
        priced = [
            score - coefficient * float(each.sum()) for score, each in zip(SCORES, estimates, strict=True)
        ]
        # Leave-one-out in groups of two: the difference to the other.
        expected = [
            priced[0] - priced[1],
            priced[1] - priced[0],
            priced[2] - priced[3],
            priced[3] - priced[2],
        ]
        for sample, advantage in zip(samples, expected, strict=True):
            assert sample.advantages.tolist() == pytest.approx([advantage] * len(sample.advantages), abs=1e-5)
            assert sample.reward in SCORES, "the score itself stays as it was"
        kl_mean = sum(float(each.mean()) for each in estimates) / 4
        measured = values(metrics)
        assert measured == pytest.approx({"reward/kl": kl_mean, "reward/kl_coefficient": coefficient})
        coefficient *= 1 + min(max(kl_mean / 0.01 - 1, -0.2), 0.2) * 4 / 10
    assert algorithm.state()["kl_coefficient"] == pytest.approx(coefficient)
