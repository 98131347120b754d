"""The same losses, KL estimates and advantages as verl's core algorithms, on the same numbers."""

from __future__ import annotations

import pytest
import torch

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.types import TokenOutputs

pytest.importorskip("verl")
core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
ActorConfig = pytest.importorskip("verl.workers.config", exc_type=ImportError).ActorConfig

AGGREGATIONS = ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
MAX_RESPONSE_TOKENS = 20
CORRECTIONS = {
    "none": ImportanceSamplingConfig(),
    "truncated": ImportanceSamplingConfig(kind="truncated", cap=1.3),
}


@pytest.fixture
def batch(flat):
    return flat.random([9, 4, 14, 6, 8], seed=5, max_response_tokens=MAX_RESPONSE_TOKENS)


@pytest.fixture
def logprobs(batch):
    return batch.old_logprobs + 0.4 * torch.randn(41, generator=torch.Generator().manual_seed(6))


def verl_policy_loss(flat, batch, logprobs, config):
    sizes = {"loss_scale_factor": MAX_RESPONSE_TOKENS} if "norm" in config.aggregation else {}
    actor = ActorConfig(
        strategy="fsdp",
        rollout_n=2,
        use_dynamic_bsz=True,
        clip_ratio_low=config.clip_low,
        clip_ratio_high=config.clip_high,
        clip_ratio_c=config.dual_clip or 3.0,
        global_batch_info=sizes,
    )
    gspo = config.ratio == "sequence"
    loss = core_algos.compute_policy_loss_gspo if gspo else core_algos.compute_policy_loss_vanilla
    weights = (batch.old_logprobs - batch.rollout_logprobs).exp().clamp(max=config.importance_sampling.cap)
    return loss(
        old_log_prob=flat.pad(batch.old_logprobs, batch),
        log_prob=flat.pad(logprobs, batch),
        advantages=flat.pad(batch.advantages, batch),
        response_mask=flat.pad(batch.loss_mask.float(), batch),
        loss_agg_mode=config.aggregation,
        config=actor,
        rollout_is_weights=flat.pad(weights, batch)
        if config.importance_sampling.kind == "truncated"
        else None,
    )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("truncated", ["none", "truncated"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_policy_loss(flat, gradient_of, batch, logprobs, aggregation, truncated, ratio):
    config = LossConfig(
        clip_low=0.1,
        clip_high=0.15,
        dual_clip=1.4 if ratio == "token" else None,  # low enough to bind; verl's GSPO has none
        ratio=ratio,
        aggregation=aggregation,
        importance_sampling=CORRECTIONS[truncated],
    )

    def ours(x):
        return policy_loss(TokenOutputs(x, torch.zeros_like(x)), batch, config)

    def theirs(x):
        return verl_policy_loss(flat, batch, x, config)

    torch.testing.assert_close(ours(logprobs)[0], theirs(logprobs)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradient_of(lambda x: ours(x)[0], logprobs),
        gradient_of(lambda x: theirs(x)[0], logprobs),
        rtol=1e-4,
        atol=1e-7,
    )
    metrics, verl_metrics = ours(logprobs)[1], theirs(logprobs)[1]
    clipped = metrics["policy/clip_fraction_low"].value() + metrics["policy/clip_fraction_high"].value()
    assert clipped == pytest.approx(verl_metrics["actor/pg_clipfrac"], abs=1e-6)
    if ratio == "token":
        dual = metrics["policy/dual_clip_fraction"].value()
        assert dual == pytest.approx(verl_metrics["actor/pg_clipfrac_lower"], abs=1e-6)
        assert dual > 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregation(flat, batch, aggregation):
    numbers = torch.randn(41, generator=torch.Generator().manual_seed(1))
    expected = core_algos.agg_loss(
        flat.pad(numbers, batch),
        flat.pad(batch.loss_mask.float(), batch),
        aggregation,
        loss_scale_factor=MAX_RESPONSE_TOKENS,
    )
    torch.testing.assert_close(aggregate(numbers, batch, aggregation), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl(kind):
    logprobs = torch.linspace(-30, 0, 61)
    reference = torch.linspace(0, -25, 61)
    torch.testing.assert_close(
        kl_estimate(logprobs, reference, kind), core_algos.kl_penalty(logprobs, reference, kind)
    )
