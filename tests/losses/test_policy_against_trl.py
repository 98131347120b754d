"""The same losses as TRL's GRPOTrainer, by calling its `_compute_loss` on the same numbers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, KlConfig, LossConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.types import TokenOutputs

grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")

MAX_RESPONSE_TOKENS = 20
CORRECTIONS = {
    "none": ImportanceSamplingConfig(),
    "truncated": ImportanceSamplingConfig(kind="truncated", cap=1.3),
}
AGGREGATION = {
    "grpo": "seq-mean-token-mean",
    "bnpo": "token-mean",
    "dapo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}


def trl_loss(flat, batch, logprobs, entropy, loss_type, config):
    """TRL's loss on the padded batch; of its trainer it needs only settings and the forward pass."""
    padded = {
        name: flat.pad(values, batch)
        for name, values in {
            "logprobs": logprobs,
            "entropy": entropy,
            "mask": batch.loss_mask.float(),
            "advantages": batch.advantages,
            "old": batch.old_logprobs,
            "reference": batch.reference_logprobs,
            "weights": (batch.old_logprobs - batch.rollout_logprobs)
            .exp()
            .clamp(max=config.importance_sampling.cap),
        }.items()
    }
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded["logprobs"], padded["entropy"], None),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
        ),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        importance_sampling_level=config.ratio,
        loss_type=loss_type,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        beta=config.kl.coefficient,
        max_completion_length=MAX_RESPONSE_TOKENS,
        use_vllm=config.importance_sampling.kind == "truncated",
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=config.entropy_coefficient > 0,
        use_adaptive_entropy=False,
        entropy_coef=config.entropy_coefficient,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        _metrics={"train": defaultdict(list)},
    )
    ids = torch.zeros_like(padded["mask"], dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": padded["mask"],
        "advantages": padded["advantages"],
        "old_per_token_logps": padded["old"],
        "ref_per_token_logps": padded["reference"],
        "importance_sampling_ratio": padded["weights"],
        "num_items_in_batch": padded["mask"].sum(),
    }
    loss = grpo_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, trainer._metrics["train"]


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", AGGREGATION)
@pytest.mark.parametrize("truncated", ["none", "truncated"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.04])
def test_loss_and_gradient(flat, gradient_of, ratio, loss_type, truncated, kl_coefficient):
    config = LossConfig(
        clip_low=0.05,
        clip_high=0.08,
        dual_clip=None,
        ratio=ratio,
        aggregation=AGGREGATION[loss_type],
        # TRL averages the entropy over tokens whatever the loss does with them.
        entropy_coefficient=0.01 if AGGREGATION[loss_type] == "token-mean" else 0.0,
        kl=KlConfig(coefficient=kl_coefficient),
        importance_sampling=CORRECTIONS[truncated],
    )
    batch = flat.random([9, 4, 14, 6, 8], seed=5, max_response_tokens=MAX_RESPONSE_TOKENS)
    noise = torch.randn(2, len(batch.targets), generator=torch.Generator().manual_seed(6))
    logprobs, entropy = batch.old_logprobs + 0.2 * noise[0], noise[1].abs()

    def ours(x):
        return policy_loss(TokenOutputs(x, entropy), batch, config)[0]

    def theirs(x):
        return trl_loss(flat, batch, x, entropy, loss_type, config)[0]

    torch.testing.assert_close(ours(logprobs), theirs(logprobs), rtol=1e-5, atol=1e-6)
    if ratio == "sequence" and truncated == "truncated":
        return  # a token's weight scales its own gradient here and in verl, the whole response's in TRL
    torch.testing.assert_close(
        gradient_of(ours, logprobs), gradient_of(theirs, logprobs), rtol=1e-4, atol=1e-7
    )


def test_metrics(flat):
    config = LossConfig(clip_low=0.1, clip_high=0.15, dual_clip=None, kl=KlConfig(coefficient=0.04))
    batch = flat.random([9, 4, 14, 6, 8], seed=7)
    noise = torch.randn(2, len(batch.targets), generator=torch.Generator().manual_seed(8))
    logprobs, entropy = batch.old_logprobs + 0.2 * noise[0], noise[1].abs()
    _, theirs = trl_loss(flat, batch, logprobs, entropy, "dapo", config)
    _, ours = policy_loss(TokenOutputs(logprobs, entropy), batch, config)
    for name, name_in_trl in {
        "policy/kl": "kl",
        "policy/entropy": "entropy",
        "policy/clip_fraction_low": "clip_ratio/low_mean",
        "policy/clip_fraction_high": "clip_ratio/high_mean",
    }.items():
        assert ours[name].value() == pytest.approx(theirs[name_in_trl][0], rel=1e-5), name
        assert ours[name].value() > 0, name
