"""CISPO and GMPO: by hand, on each side of the clip, against the formula, verl and TRL, and however they are cut."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, KlConfig, LossConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import TokenOutputs

CISPO = LossConfig(objective="cispo", dual_clip=None, clip_low=0.2, clip_high=0.28)
GMPO = LossConfig(
    objective="gmpo", dual_clip=None, clip_low=0.2, clip_high=0.3, aggregation="seq-mean-token-mean"
)


def run(batch, config, logprobs):
    return policy_loss(TokenOutputs(logprobs, torch.zeros_like(logprobs)), batch, config)


def slope(gradient_of, batch, config, logprobs):
    return gradient_of(lambda x: run(batch, config, x)[0], logprobs)


@pytest.fixture
def batch(flat):
    return flat.random([9, 4, 14, 6, 8], seed=5)


@pytest.fixture
def logprobs(batch):
    return batch.old_logprobs + 0.4 * torch.randn(41, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight", "low", "high"),
    [
        (1.0, 2.0, 1.0, 0, 0),
        (1.5, 2.0, 1.28, 0, 1),  # a bound limits the weight, and the token is still trained
        (0.5, 2.0, 0.8, 1, 0),
        (1.5, -2.0, 1.28, 0, 1),
        (0.5, -2.0, 0.8, 1, 0),
        (0.9, -2.0, 0.9, 0, 0),
    ],
)
def test_cispo_keeps_every_gradient_at_a_bounded_weight(
    flat, gradient_of, ratio, advantage, weight, low, high
):
    batch = flat.make([1], advantages=[advantage], old=[-1.0])
    logprobs = torch.tensor([-1.0 + math.log(ratio)])
    loss, metrics = run(batch, CISPO, logprobs)
    assert loss.item() == pytest.approx(-weight * advantage * logprobs.item(), abs=1e-6)
    assert slope(gradient_of, batch, CISPO, logprobs).item() == pytest.approx(-weight * advantage, abs=1e-6)
    assert metrics["policy/clip_fraction_low"].value() == low
    assert metrics["policy/clip_fraction_high"].value() == high
    assert metrics["policy/ratio_mean"].value() == pytest.approx(ratio)


def test_cispo_without_a_lower_bound(flat, gradient_of):
    batch = flat.make([1], advantages=[1.0], old=[-1.0])
    config = CISPO.model_copy(update={"clip_low": 1.0})
    gradient = slope(gradient_of, batch, config, torch.tensor([-1.0 + math.log(0.01)]))
    assert gradient.item() == pytest.approx(-0.01)


@pytest.mark.parametrize(
    ("difference", "advantage", "kept", "gradient"),  # of a response of one token
    [
        (0.1, 2.0, 0.1, True),
        (0.5, 2.0, 0.3, False),  # likelier than the bound allows
        (-0.5, 2.0, -0.5, True),  # a good token that became less likely is pulled back
        (-0.1, -2.0, -0.1, True),
        (-0.5, -2.0, -0.2, False),
        (0.5, -2.0, 0.5, True),  # a bad token that became likelier is pulled back
    ],
)
def test_gmpo_on_each_side_of_the_clip(flat, gradient_of, difference, advantage, kept, gradient):
    batch = flat.make([1], advantages=[advantage], old=[-1.0])
    logprobs = torch.tensor([-1.0 + difference])
    loss, metrics = run(batch, GMPO, logprobs)
    expected = -advantage * math.exp(kept)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    found = slope(gradient_of, batch, GMPO, logprobs).item()
    assert found == pytest.approx(expected if gradient else 0.0, abs=1e-6)
    clipped = (metrics[f"policy/clip_fraction_{side}"].value() for side in ("low", "high"))
    assert tuple(clipped) == (float(not gradient and advantage < 0), float(not gradient and advantage > 0))


def test_gmpo_is_the_formula_of_the_paper(flat, gradient_of):
    mask = [True, True, False, True, True, True]
    old = torch.tensor([-1.0, -0.5, -9.0, -2.0, -0.3, -0.8])
    logprobs = torch.tensor([-0.9, -1.0, -1.0, -1.6, -0.4, -1.2])
    batch = flat.make([3, 3], mask=mask, old=old, advantages=[1.0, 1.0, 1.0, -2.0, -2.0, -2.0])

    # arXiv 2507.20673: the log-ratios are 0.1, -0.5 (A > 0: bounded above only); 0.4, -0.1, -0.4 (below only).
    def by_the_paper(x):
        difference = x - old
        first = ((difference[0] + difference[1]) / 2).exp()
        second = ((difference[3] + difference[4] - 0.2) / 3).exp()  # the last is clipped at -0.2
        return -(first - 2 * second) / 2

    loss, metrics = run(batch, GMPO, logprobs)
    assert loss.item() == pytest.approx(-(math.exp(-0.2) - 2 * math.exp(0.1 / 3)) / 2, rel=1e-5)
    torch.testing.assert_close(
        slope(gradient_of, batch, GMPO, logprobs), gradient_of(by_the_paper, logprobs), rtol=1e-5, atol=1e-7
    )
    assert metrics["policy/ratio_max"].value() == pytest.approx(math.exp(0.1 / 3), rel=1e-6)
    assert metrics["policy/clip_fraction_low"].value() == pytest.approx(1 / 5)


@pytest.mark.parametrize("objective", ["cispo", "gmpo"])
def test_on_policy_every_objective_is_reinforce(flat, gradient_of, objective):
    batch = flat.make([2, 2], advantages=[1.0, 1.0, -3.0, -3.0])
    config = {"cispo": CISPO, "gmpo": GMPO}[objective]
    gradient = slope(gradient_of, batch, config, torch.tensor([-0.1, -2.3, -0.7, -0.2]))
    assert gradient.tolist() == pytest.approx([-0.25, -0.25, 0.75, 0.75])


SEQUENCE_WEIGHTS = ImportanceSamplingConfig(kind="truncated", cap=1.2, level="geometric")
VARIANTS = {
    "cispo": CISPO,
    "cispo, of responses": CISPO.model_copy(
        update={
            "aggregation": "seq-mean-token-mean",
            "ratio": "sequence",
            "clip_low": 0.02,
            "clip_high": 0.03,
        }
    ),
    "gmpo": GMPO,
    "gmpo, everything": GMPO.model_copy(
        update={
            "importance_sampling": SEQUENCE_WEIGHTS,
            "kl": KlConfig(coefficient=0.05, estimator="k2"),
            "entropy_coefficient": 0.02,
        }
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3], [4]], [[3, 1], [4], [0, 2]]])
def test_independence_of_the_cut(flat, gradient_of, batch, logprobs, name, parts):
    config, cuts = VARIANTS[name], flat.cut(batch, parts)

    def whole(x):
        return run(batch, config, x)[0]

    def in_parts(x):
        return sum(run(part, config, x[tokens])[0] for tokens, part in cuts)

    torch.testing.assert_close(in_parts(logprobs), whole(logprobs), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradient_of(in_parts, logprobs), gradient_of(whole, logprobs), rtol=1e-5, atol=1e-7
    )
    merged = values(merge(run(part, config, logprobs[tokens])[1] for tokens, part in cuts))
    assert merged == pytest.approx(values(run(batch, config, logprobs)[1]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_garbage_at_masked_positions_leaks_nowhere(gradient_of, batch, logprobs, name, garbage):
    config = VARIANTS[name]
    assert not batch.loss_mask.all()

    def spoil(tensor):
        return torch.where(batch.loss_mask, tensor, garbage)

    fields = ("advantages", "rollout_logprobs", "old_logprobs", "reference_logprobs")
    spoilt = dataclasses.replace(batch, **{field: spoil(getattr(batch, field)) for field in fields})
    loss, metrics = run(batch, config, logprobs)
    dirty_loss, dirty_metrics = run(spoilt, config, spoil(logprobs))
    assert (dirty_loss.item(), dirty_metrics) == (loss.item(), metrics)
    clean = slope(gradient_of, batch, config, logprobs)
    assert slope(gradient_of, spoilt, config, spoil(logprobs)).tolist() == clean.tolist()


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_to_train(flat, gradient_of, name):
    config = VARIANTS[name]
    masked = flat.make([3], mask=[False] * 3, advantages=[1.0] * 3, reference=[0.0] * 3)
    logprobs = torch.tensor([-1.0, -2.0, -3.0])
    assert run(masked, config, logprobs)[0].item() == 0.0
    assert slope(gradient_of, masked, config, logprobs).tolist() == [0.0] * 3
    assert run(flat.make([], reference=[]), config, torch.zeros(0))[0].item() == 0.0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", ["cispo", "gmpo"])
def test_the_same_as_verl(flat, gradient_of, batch, logprobs, objective, weighted):
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    actor_config = pytest.importorskip("verl.workers.config", exc_type=ImportError).ActorConfig
    name, config = {"cispo": ("cispo", CISPO), "gmpo": ("geo_mean", GMPO)}[objective]
    weights = None
    if weighted:
        level = "sequence" if objective == "gmpo" else "token"
        sampling = ImportanceSamplingConfig(kind="truncated", cap=1.3, level=level)
        config = config.model_copy(update={"importance_sampling": sampling})
        helper = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper", exc_type=ImportError)
        weights, _ = helper.compute_rollout_correction_weights(
            flat.pad(batch.old_logprobs - batch.rollout_logprobs, batch),
            flat.pad(batch.loss_mask.float(), batch),
            level,
            1.3,
        )

    def theirs(x):
        return core_algos.get_policy_loss_fn(name)(
            old_log_prob=flat.pad(batch.old_logprobs, batch),
            log_prob=flat.pad(x, batch),
            advantages=flat.pad(batch.advantages, batch),
            response_mask=flat.pad(batch.loss_mask.float(), batch),
            loss_agg_mode=config.aggregation,
            config=actor_config(
                strategy="fsdp",
                rollout_n=2,
                use_dynamic_bsz=True,
                clip_ratio_low=config.clip_low,
                clip_ratio_high=config.clip_high,
            ),
            rollout_is_weights=weights,
        )

    torch.testing.assert_close(run(batch, config, logprobs)[0], theirs(logprobs)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        slope(gradient_of, batch, config, logprobs),
        gradient_of(lambda x: theirs(x)[0], logprobs),
        rtol=1e-4,
        atol=1e-7,
    )
    if objective == "cispo":
        metrics, verl_metrics = run(batch, config, logprobs)[1], theirs(logprobs)[1]
        clipped = sum(metrics[f"policy/clip_fraction_{side}"].value() for side in ("low", "high"))
        assert clipped == pytest.approx(verl_metrics["actor/pg_clipfrac"], abs=1e-6)
        assert clipped > 0


def test_cispo_is_the_same_as_trl(flat, gradient_of, batch, logprobs):
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    config = CISPO.model_copy(update={"clip_low": 1.0, "clip_high": 0.2})  # TRL bounds the weight above only
    padded = {
        name: flat.pad(column, batch)
        for name, column in {
            "mask": batch.loss_mask.float(),
            "advantages": batch.advantages,
            "old": batch.old_logprobs,
        }.items()
    }
    ids = torch.zeros_like(padded["mask"], dtype=torch.int64)

    def theirs(x):
        current = flat.pad(x, batch)
        trainer = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, **__: (current, torch.zeros_like(current), None),
            accelerator=SimpleNamespace(
                num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
            ),
            args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
            model=SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1,
            importance_sampling_level="token",
            loss_type="cispo",
            epsilon_low=0.0,
            epsilon_high=1.2,
            beta=0.0,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            _entropy_bonus_enabled=False,
            use_adaptive_entropy=False,
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            _metrics={"train": defaultdict(list)},
        )
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": padded["mask"],
            "advantages": padded["advantages"],
            "old_per_token_logps": padded["old"],
            "num_items_in_batch": padded["mask"].sum(),
        }
        return grpo_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)

    torch.testing.assert_close(run(batch, config, logprobs)[0], theirs(logprobs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        slope(gradient_of, batch, config, logprobs), gradient_of(theirs, logprobs), rtol=1e-4, atol=1e-7
    )
