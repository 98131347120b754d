"""What PPO prepares and the order in which it asks and trains its models. The models are fakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_models import Batch, online_config, pad
from pydantic import ValidationError

from reasoner_rl.algorithms.base import Prepared
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.algorithms.ppo import Ppo
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.metrics import values

KL = {"coefficient": 0.2, "estimator": "k3"}
ADAPTIVE = {**KL, "controller": "adaptive", "target": 0.1, "horizon": 50}
CONTROLLED = {"adaptive": ADAPTIVE, "fixed": KL}


def ppo(updates: int = 1, **algorithm: Any) -> Ppo:
    built = build_algorithm(online_config({"kind": "ppo", **algorithm}, updates=updates, responses=1))
    assert isinstance(built, Ppo)
    return built


def make_batch(seed: int = 0) -> Batch:
    return Batch([4, 1, 6, 3], [1.0, 0.0, -1.0, 1.0], [0, 1, 2, 3], seed)


def prepare(algorithm: Ppo, batch: Batch) -> Prepared:
    return algorithm.prepare(batch.samples, batch.models())


@pytest.mark.parametrize("controller", ["fixed", "adaptive"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_rewards_advantages_and_returns_are_those_of_verl(estimator: str, controller: str) -> None:
    pytest.importorskip("verl")
    trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer", exc_type=ImportError)
    from tensordict import TensorDict
    from verl import DataProto

    algorithms = trainer.core_algos
    ours = ppo(
        gae={"gamma": 0.97, "lam": 0.9},
        kl_in_reward={**CONTROLLED[controller], "estimator": estimator},
    )
    theirs: Any = algorithms.FixedKLController(0.2)
    if controller == "adaptive":
        theirs = algorithms.AdaptiveKLController(0.2, 0.1, 50)
    coefficients = []
    for seed in (0, 1):  # the second with the coefficient that the first has left
        batch = make_batch(seed)
        samples, metrics = prepare(ours, batch)
        measured = values(metrics)
        mask = pad([sample.loss_mask for sample in samples])
        scores = torch.zeros_like(mask)
        for row, sample in enumerate(samples):
            scores[row, len(sample.response_ids) - 1] = sample.reward
        columns = {"response_mask": mask, "token_level_scores": scores}
        columns |= {"old_log_probs": pad(batch.policy), "ref_log_prob": pad(batch.reference)}
        data = DataProto(TensorDict(columns, batch_size=len(samples)))
        coefficients.append(theirs.value)
        data, told = trainer.apply_kl_penalty(data, theirs, estimator)
        advantages, returns = algorithms.compute_gae_advantage_return(
            data.batch["token_level_rewards"], pad(batch.values), mask, 0.97, 0.9
        )
        for sample, said in zip(samples, batch.values, strict=True):
            assert torch.equal(sample.old_values, said)  # type: ignore[arg-type]
        found = (
            pad([s.advantages for s in samples]),
            pad([s.returns for s in samples if s.returns is not None]),
        )
        torch.testing.assert_close(found[0], advantages * mask, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], returns * mask, rtol=1e-5, atol=1e-5)
        assert measured["reward/kl"] == pytest.approx(told["actor/reward_kl_penalty"], rel=1e-5)
        assert measured["reward/kl_coefficient"] == pytest.approx(coefficients[-1], rel=1e-6)
        assert measured["reward/kl_coefficient"] == pytest.approx(told["actor/reward_kl_penalty_coeff"])
    assert (coefficients[0] != coefficients[1]) == (controller == "adaptive")
    assert ours.state()["kl_coefficient"] == pytest.approx(theirs.value, rel=1e-6)


def test_by_hand_without_kl_and_whitening() -> None:
    batch = make_batch()
    batch.values[0] = torch.tensor([0.5, 0.2, 0.6, 0.1])
    samples, metrics = prepare(ppo(gae={"gamma": 0.9, "lam": 0.5, "whiten": False}), batch)
    # Deltas: 0.9 * 0.2 - 0.5, 0.9 * 0.6 - 0.2, 0.9 * 0.1 - 0.6, 1 - 0.1; each step back times 0.45.
    a3 = 0.9
    a2 = -0.51 + 0.45 * a3
    a1 = 0.34 + 0.45 * a2
    a0 = -0.32 + 0.45 * a1
    assert samples[0].advantages.tolist() == pytest.approx([a0, a1, a2, a3], abs=1e-6)
    assert samples[0].returns is not None
    assert samples[0].returns.tolist() == pytest.approx([a0 + 0.5, a1 + 0.2, a2 + 0.6, a3 + 0.1], abs=1e-6)
    measured = values(metrics)
    flat = torch.cat([sample.advantages for sample in samples]).double()
    returns = torch.cat([sample.returns for sample in samples if sample.returns is not None]).double()
    said = torch.cat(batch.values).double()
    explained = 1 - (returns - said).var(correction=0) / returns.var(correction=0)
    assert measured == pytest.approx(
        {
            "value/explained_variance": explained.item(),
            "value/error_mean": (said - returns).mean().item(),
            "value/error_rms": (said - returns).square().mean().sqrt().item(),
            "value/return_mean": returns.mean().item(),
            "value/return_std": returns.std(correction=0).item(),
            "value/return_min": returns.min().item(),
            "value/return_max": returns.max().item(),
            "advantage/token_mean": flat.mean().item(),
            "advantage/token_std": flat.std(correction=0).item(),
            "advantage/token_min": flat.min().item(),
            "advantage/token_max": flat.max().item(),
        },
        abs=1e-6,
    )


def test_whitened_advantages_have_mean_0_and_deviation_1() -> None:
    samples, _ = prepare(ppo(), make_batch())
    flat = torch.cat([sample.advantages for sample in samples])
    assert flat.mean().item() == pytest.approx(0, abs=1e-6)
    assert flat.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "updates", "roles", "calls"),
    [
        ({}, 1, ("policy", "critic"), ["critic.values"]),
        ({}, 2, ("policy", "critic"), ["policy.logprobs", "critic.values"]),
        (
            {"kl_in_reward": KL},
            1,
            ("policy", "reference", "critic"),
            ["reference.logprobs", "policy.logprobs", "critic.values"],
        ),
        (
            {"loss": {"kl": {"coefficient": 0.1}}},
            1,
            ("policy", "reference", "critic"),
            ["reference.logprobs", "critic.values"],
        ),
    ],
)
def test_models_are_asked_in_the_order_that_moves_least(
    algorithm: dict[str, Any], updates: int, roles: tuple[str, ...], calls: list[str]
) -> None:
    """The reference first, which is not trained; the critic last, because it is trained first."""
    built, batch = ppo(updates, **algorithm), make_batch()
    models = batch.models()
    samples, _ = built.prepare(batch.samples, models)
    assert built.roles == roles
    assert batch.calls == calls
    assert set(built.losses) == {"policy", "critic"}
    assert [s.response_ids.tolist() for s in samples] == [s.response_ids.tolist() for s in batch.samples]
    assert set(built.update(samples, models)) == {"critic/updates", "policy/updates"}
    assert batch.calls == [*calls, "critic.update", "policy.update"]
    for model in (models.critic, models.policy):
        assert model.updated == samples  # type: ignore[union-attr]


def test_the_critic_alone_is_trained_at_first_also_after_a_resumption() -> None:
    before, batch = ppo(critic_warmup_steps=2, kl_in_reward=ADAPTIVE), make_batch()
    samples, _ = prepare(before, batch)
    batch.calls.clear()
    assert set(before.update(samples, batch.models())) == {"critic/updates"}
    state = before.state()
    assert state["steps"] == 1
    assert state["kl_coefficient"] == 0.2, "it does not adapt while the policy stays as it is"
    resumed = ppo(critic_warmup_steps=2, kl_in_reward=ADAPTIVE)
    resumed.restore(state)
    assert resumed.state() == state
    for _ in range(2):
        resumed.update(samples, batch.models())
    assert batch.calls == ["critic.update", "critic.update", "critic.update", "policy.update"]
    assert resumed.state()["steps"] == 3
    assert values(prepare(resumed, batch).metrics)["reward/kl_coefficient"] == 0.2
    adapted = resumed.state()
    assert adapted["kl_coefficient"] != 0.2
    again = ppo(critic_warmup_steps=2, kl_in_reward=ADAPTIVE)
    again.restore(adapted)
    assert values(prepare(again, batch).metrics)["reward/kl_coefficient"] == adapted["kl_coefficient"]


def test_a_fixed_coefficient_is_the_recipes_also_after_a_resumption() -> None:
    resumed = ppo(kl_in_reward=KL)
    resumed.restore({"steps": 3, "kl_coefficient": 0.7})
    assert values(prepare(resumed, make_batch()).metrics)["reward/kl_coefficient"] == 0.2


@pytest.mark.parametrize("bootstrap", [True, False])
def test_what_follows_a_truncated_response(bootstrap: bool) -> None:
    batch = make_batch()
    batch.samples[3] = batch.samples[3].replace(truncated=True)
    batch.values[2][-1], batch.values[3][-1] = 0.4, 0.5
    gae = {"gamma": 0.9, "lam": 0.5, "whiten": False, "bootstrap_truncated": bootstrap}
    samples, _ = prepare(ppo(gae=gae), batch)
    after = 0.9 * 0.5 if bootstrap else 0.0
    assert samples[3].advantages[-1].item() == pytest.approx(1.0 + after - 0.5, abs=1e-6)
    assert samples[2].advantages[-1].item() == pytest.approx(-1.0 - 0.4, abs=1e-6), "not truncated"


def test_a_masked_sample_has_no_part_in_anything() -> None:
    batch = make_batch()
    batch.samples = batch.masked(2)
    algorithm = {"kl_in_reward": ADAPTIVE, "gae": {"lam": 0.9}}
    samples, metrics = prepare(ppo(**algorithm), batch)
    assert samples[2].advantages.tolist() == [0.0] * 6
    assert samples[2].returns is not None
    assert samples[2].returns.tolist() == [0.0] * 6
    without = make_batch()
    del without.samples[2]
    others, measured = prepare(ppo(**algorithm), without)
    for one, other in zip([s for i, s in enumerate(samples) if i != 2], others, strict=True):
        assert one.advantages.tolist() == other.advantages.tolist()
        assert one.returns.tolist() == other.returns.tolist()  # type: ignore[union-attr]
    assert values(metrics) == values(measured)
    kl = [kl_estimate(batch.policy[i], batch.reference[i], "k3").mean().item() for i in (0, 1, 3)]
    assert values(metrics)["reward/kl"] == pytest.approx(sum(kl) / 3, rel=1e-6)


def test_masked_tokens_within_a_response_are_skipped() -> None:
    batch = make_batch()
    mask = torch.tensor([True, False, True, False])
    batch.samples[0] = batch.samples[0].replace(loss_mask=mask)
    batch.values[0] = torch.tensor([0.5, 9.0, 0.25, 9.0])
    samples, _ = prepare(ppo(gae={"gamma": 1.0, "lam": 1.0, "whiten": False}), batch)
    assert samples[0].advantages.tolist() == [0.5, 0.0, 0.75, 0.0]
    assert samples[0].returns is not None
    assert samples[0].returns.tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", ["ppo", "reinforce_plus_plus"])
def test_one_response_per_prompt_is_enough_where_nothing_is_compared(kind: str) -> None:
    config = online_config({"kind": kind}, responses=1)
    assert config.rollout.responses_per_prompt == 1


@pytest.mark.parametrize(
    "algorithm",
    [
        *({"kind": kind} for kind in ("dapo", "grpo", "dr_grpo", "rloo", "gspo", "cispo")),
        {"kind": "reinforce_plus_plus", "baseline": "group"},
        {"kind": "ppo", "dynamic_sampling": {"enabled": True}},
    ],
    ids=str,
)
def test_one_response_per_prompt_is_refused_where_groups_are_compared(algorithm: dict[str, Any]) -> None:
    message = (
        r"rollout\.responses_per_prompt must be at least 2 with algorithm\.kind "
        rf"{algorithm['kind']}: .*; it is 1"
    )
    with pytest.raises(ValidationError, match=message):
        online_config(algorithm, responses=1)


def test_a_critic_is_refused_where_none_is_used() -> None:
    with pytest.raises(ValidationError, match=r"critic is for algorithm\.kind ppo or custom; it is grpo"):
        online_config({"kind": "grpo"}, critic={"optimizer": {"lr": 1e-3}})
    config = online_config({"kind": "ppo"}, critic={"optimizer": {"lr": 1e-3}})
    assert config.critic is not None
    assert config.critic.optimizer.lr == 1e-3
