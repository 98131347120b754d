from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch

from reasoner_rl.config.algorithm import (
    DapoConfig,
    DrGrpoConfig,
    GrpoConfig,
    GspoConfig,
    ImportanceSamplingConfig,
    KlConfig,
    LossConfig,
    RlooConfig,
)
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.losses.surrogates import clipped_surrogate, importance_ratio
from reasoner_rl.metrics import Metric, merge, values
from reasoner_rl.types import TokenOutputs

EVERYTHING = LossConfig(
    clip_low=0.1,
    clip_high=0.15,
    dual_clip=1.5,
    entropy_coefficient=0.02,
    kl=KlConfig(coefficient=0.05),
    importance_sampling=ImportanceSamplingConfig(kind="truncated", cap=1.2),
)
PRESETS = {
    config.kind: config.loss
    for config in (DapoConfig(), GrpoConfig(), DrGrpoConfig(), RlooConfig(), GspoConfig())
}


def outputs(logprobs, entropy=None):
    return TokenOutputs(logprobs, torch.zeros_like(logprobs) if entropy is None else entropy)


def near_old(batch, scale=0.3, seed=9):
    """Logprobs of a policy some updates away from the old one, and an entropy."""
    noise = torch.randn(2, len(batch.targets), generator=torch.Generator().manual_seed(seed))
    return batch.old_logprobs + scale * noise[0], noise[1].abs()


def clip_config(**changes):
    return LossConfig(**{"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None, **changes})


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),  # slope: d loss / d logprob = -A * ratio where no bound holds
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.4),
        (1.25, 2.0, -2.5, -2.5),
        (1.5, 2.0, -2.56, 0.0),  # clipped at 1.28
        (0.5, 2.0, -1.0, -1.0),  # a good token that became less likely is pulled back
        (1.0, -2.0, 2.0, 2.0),
        (0.9, -2.0, 1.8, 1.8),
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, -2.0, 3.0, 3.0),  # a bad token that became likelier is pulled back
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_each_side_of_the_clip(flat, gradient_of, ratio, advantage, loss, slope):
    batch = flat.make([1], advantages=[advantage], old=[-1.0])
    logprobs = torch.tensor([-1.0 + math.log(ratio)])
    value, metrics = policy_loss(outputs(logprobs), batch, clip_config())
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert metrics["policy/clip_fraction_high"].value() == float(slope == 0 and advantage > 0)
    assert metrics["policy/clip_fraction_low"].value() == float(slope == 0 and advantage < 0)
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, clip_config())[0], logprobs)
    assert gradient.item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (2.9, -2.0, 5.8, 5.8),
        (4.0, -2.0, 6.0, 0.0),  # bounded at 3 * 2
        (0.5, -2.0, 1.6, 0.0),  # the lower clip is not the dual clip's business
        (4.0, 2.0, -2.56, 0.0),  # nor are positive advantages
    ],
)
def test_dual_clip_bounds_negative_advantages_only(flat, gradient_of, ratio, advantage, loss, slope):
    batch = flat.make([1], advantages=[advantage], old=[-2.0])
    logprobs = torch.tensor([-2.0 + math.log(ratio)])
    config = clip_config(dual_clip=3.0)
    value, metrics = policy_loss(outputs(logprobs), batch, config)
    assert value.item() == pytest.approx(loss, abs=1e-5)
    assert metrics["policy/dual_clip_fraction"].value() == float(ratio == 4.0 and advantage < 0)
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs)
    assert gradient.item() == pytest.approx(slope, abs=1e-5)


def test_without_old_logprobs_the_ratio_is_exactly_one(flat, gradient_of):
    batch = flat.make([2, 1], advantages=[1.0, 1.0, -3.0])
    logprobs = torch.tensor([-0.1, -2.3, -0.7])
    loss, metrics = policy_loss(outputs(logprobs), batch, clip_config())
    assert loss.item() == pytest.approx((-1 - 1 + 3) / 3)
    assert metrics["policy/ratio_mean"].value() == metrics["policy/ratio_max"].value() == 1.0
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, clip_config())[0], logprobs)
    assert gradient.tolist() == pytest.approx([-1 / 3, -1 / 3, 1.0])  # that of REINFORCE


def test_the_log_ratio_is_bounded(flat):
    batch = flat.make([2], advantages=[-1.0, -1.0], old=[-100.0, -1.0])
    ratio = importance_ratio(torch.tensor([0.0, -100.0]), batch.old_logprobs, batch, clip_config())
    assert ratio.tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-5)


def test_sequence_ratio_is_the_formula_of_gspo(flat, gradient_of):
    mask = [True, True, False, True, True]
    old = torch.tensor([-1.0, -0.5, -9.0, -2.0, -0.3])
    logprobs = torch.tensor([-0.9, -0.7, -1.0, -1.6, -0.4])
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0])
    batch = flat.make([3, 2], mask=mask, old=old, advantages=advantages)
    config = clip_config(clip_low=0.5, clip_high=0.5, ratio="sequence", aggregation="seq-mean-token-mean")

    # arXiv 2507.18071: s = (pi(y) / pi_old(y))^(1 / |y|), and the loss is -mean over responses of s A.
    def by_the_paper(x):
        first = ((x[0] + x[1] - old[0] - old[1]) / 2).exp()  # e^-0.05
        second = ((x[3] + x[4] - old[3] - old[4]) / 2).exp()  # e^0.15
        return -(first * 1.0 + second * -2.0) / 2

    loss, metrics = policy_loss(outputs(logprobs), batch, config)
    assert loss.item() == pytest.approx(-(0.951229425 - 2 * 1.161834243) / 2, rel=1e-6)
    assert loss.item() == pytest.approx(by_the_paper(logprobs).item(), rel=1e-6)
    assert metrics["policy/ratio_max"].value() == pytest.approx(1.161834243, rel=1e-6)
    torch.testing.assert_close(
        gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs),
        gradient_of(by_the_paper, logprobs),
    )


def test_sequence_ratio_clips_whole_responses(flat, gradient_of):
    batch = flat.make([2, 2], old=[-1.0] * 4, advantages=[1.0, 1.0, -1.0, -1.0])
    logprobs = torch.tensor([-0.5, -1.0, -0.9, -1.1])  # mean log-ratios 0.25 and 0
    config = clip_config(ratio="sequence", clip_low=0.1, clip_high=0.1)
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs)
    assert gradient.tolist() == pytest.approx([0.0, 0.0, 0.25, 0.25])
    assert policy_loss(outputs(logprobs), batch, config)[1]["policy/clip_fraction_high"].value() == 0.5


def test_entropy_bonus(flat, gradient_of):
    batch = flat.make([2], mask=[True, True])
    entropy = torch.tensor([1.0, 3.0])
    config = clip_config(entropy_coefficient=0.1)
    loss, metrics = policy_loss(outputs(torch.zeros(2), entropy), batch, config)
    assert loss.item() == pytest.approx(-0.2)
    assert metrics["policy/entropy"].value() == pytest.approx(2.0)
    gradient = gradient_of(lambda x: policy_loss(outputs(torch.zeros(2), x), batch, config)[0], entropy)
    assert gradient.tolist() == pytest.approx([-0.05, -0.05])


def test_kl_in_the_loss(flat, gradient_of):
    batch = flat.make([2], reference=[-1.0, -2.0])
    logprobs = torch.tensor([-1.5, -1.0])
    config = clip_config(kl=KlConfig(coefficient=0.1, estimator="k2"))
    loss, metrics = policy_loss(outputs(logprobs), batch, config)
    assert loss.item() == pytest.approx(0.1 * (0.125 + 0.5) / 2)
    # k3, whatever the loss uses: e^0.5 - 1 - 0.5 and e^-1 - 1 + 1.
    assert metrics["policy/kl"].value() == pytest.approx((0.148721271 + 0.367879441) / 2, rel=1e-5)
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs)
    assert gradient.tolist() == pytest.approx([0.1 * -0.5 / 2, 0.1 * 1.0 / 2])


def test_kl_without_a_coefficient_is_observed_and_not_in_the_loss(flat):
    batch = flat.make([1], reference=[-5.0])
    loss, metrics = policy_loss(outputs(torch.tensor([-1.0])), batch, clip_config())
    assert loss.item() == 0.0
    assert metrics["policy/kl"].value() == pytest.approx(math.exp(-4) + 3, rel=1e-5)


def test_kl_in_the_loss_needs_reference_logprobs(flat):
    with pytest.raises(ValueError, match="reference logprobs"):
        policy_loss(outputs(torch.zeros(1)), flat.make([1]), clip_config(kl=KlConfig(coefficient=0.1)))


def test_truncated_importance_sampling(flat, gradient_of):
    batch = flat.make(
        [2], advantages=[1.0, 1.0], old=[math.log(0.3), math.log(0.9)], rollout=[math.log(0.6), math.log(0.1)]
    )
    config = clip_config(importance_sampling=ImportanceSamplingConfig(kind="truncated", cap=2.0))
    logprobs = batch.old_logprobs
    loss, metrics = policy_loss(outputs(logprobs), batch, config)
    assert loss.item() == pytest.approx(-(0.5 + 2.0) / 2)  # weights 0.3 / 0.6, and 0.9 / 0.1 capped
    assert metrics["policy/importance_weight_mean"].value() == pytest.approx(1.25)
    assert metrics["policy/importance_weight_above"].value() == 0.5
    assert "policy/importance_weight_below" not in metrics
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs)
    assert gradient.tolist() == pytest.approx([-0.25, -1.0])


def test_masked_importance_sampling_leaves_out_what_the_engines_disagree_on(flat, gradient_of):
    trainer, rollout = [0.3, 0.9, 0.1, 0.5], [0.6, 0.1, 0.25, 0.4]  # weights 0.5, 9, 0.4 and 1.25
    batch = flat.make(
        [4],
        advantages=[1.0, 1.0, 1.0, -1.0],
        old=[math.log(p) for p in trainer],
        rollout=[math.log(p) for p in rollout],
    )
    config = clip_config(importance_sampling=ImportanceSamplingConfig(kind="masked", cap=2.0, floor=0.45))
    loss, metrics = policy_loss(outputs(batch.old_logprobs), batch, config)
    assert loss.item() == pytest.approx((-0.5 + 1.25) / 4), "masked tokens still count in the denominator"
    assert metrics["policy/importance_weight_above"].value() == 0.25
    assert metrics["policy/importance_weight_below"].value() == 0.25
    assert metrics["policy/importance_weight_mean"].value() == pytest.approx((0.5 + 1.25) / 4)
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], batch.old_logprobs)
    assert gradient.tolist() == pytest.approx([-0.125, 0.0, 0.0, 0.3125])


def test_importance_weights_have_no_gradient_on_policy(flat, gradient_of):
    batch = flat.make([1], advantages=[1.0], rollout=[math.log(0.5)])
    config = clip_config(importance_sampling=ImportanceSamplingConfig(kind="truncated", cap=2.0))
    logprobs = torch.tensor([math.log(0.6)])
    gradient = gradient_of(lambda x: policy_loss(outputs(x), batch, config)[0], logprobs)
    assert gradient.item() == pytest.approx(-1.2)  # weight 0.6 / 0.5, times the -1 of REINFORCE


def test_rollout_logprobs_as_the_old_ones(flat):
    batch = flat.make([1], advantages=[1.0], rollout=[math.log(0.5)])
    logprobs = torch.tensor([math.log(0.6)])
    config = clip_config(old_logprobs="rollout")
    loss, metrics = policy_loss(outputs(logprobs), batch, config)
    assert loss.item() == pytest.approx(-1.2)
    assert metrics["policy/rollout_gap_mean"].value() == pytest.approx(math.log(1.2), rel=1e-5)


def test_metrics_by_hand(flat):
    ratios = torch.tensor([1.5, 0.5, 0.5, 1.0, 7.0])
    batch = flat.make(
        [3, 2],
        mask=[True, True, True, True, False],
        advantages=[1.0, 1.0, -1.0, -1.0, 1.0],
        old=[-1.0] * 5,
        rollout=[-1.0, -1.05, -0.7, -1.0, -50.0],
    )
    loss, metrics = policy_loss(outputs(-1.0 + ratios.log(), torch.arange(5.0)), batch, clip_config())
    # Losses: -1.28 (clipped), -0.5, +0.8 (clipped), +1.
    assert loss.item() == pytest.approx(0.02 / 4, abs=1e-6)
    assert "policy/kl" not in metrics
    assert "policy/dual_clip_fraction" not in metrics
    expected = {
        "policy/loss": 0.005,
        "policy/entropy": 1.5,
        "policy/ratio_mean": 0.875,
        "policy/ratio_max": 1.5,
        "policy/clip_fraction_high": 0.25,
        "policy/clip_fraction_low": 0.25,
        # r - 1 - ln r: 0.094535 + 2 * 0.193147 + 0
        "policy/approx_kl": (0.0945348919 + 2 * 0.1931471806) / 4,
        "policy/rollout_gap_mean": (0.05 + 0.3) / 4,
        "policy/rollout_gap_max": 0.3,
        "policy/rollout_gap_share": 0.25,
        # e^d - 1 - d with d = old - rollout: 0.05 and -0.3
        "policy/rollout_kl": (0.0012710964 + 0.0408182207) / 4,
    }
    assert values(metrics) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", [*PRESETS, "everything", "everything, sequence ratio"])
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3], [4]], [[3, 1], [4], [0, 2]], [[2, 4, 1, 0], [3]]])
def test_loss_gradient_and_metrics_do_not_depend_on_the_cut(flat, gradient_of, name, parts):
    config = PRESETS.get(name, EVERYTHING)
    if name == "everything, sequence ratio":
        config = EVERYTHING.model_copy(update={"ratio": "sequence", "clip_low": 0.02, "clip_high": 0.03})
    batch = flat.random([9, 1, 5, 14, 2], seed=1)
    logprobs, entropy = near_old(batch)
    cuts = flat.cut(batch, parts)

    def whole(x):
        return policy_loss(outputs(x, entropy), batch, config)[0]

    def in_parts(x):
        return sum(policy_loss(outputs(x[t], entropy[t]), part, config)[0] for t, part in cuts)

    torch.testing.assert_close(in_parts(logprobs), whole(logprobs), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradient_of(in_parts, logprobs), gradient_of(whole, logprobs), rtol=1e-5, atol=1e-7
    )
    reduced = values(policy_loss(outputs(logprobs, entropy), batch, config)[1])
    merged = merge(policy_loss(outputs(logprobs[t], entropy[t]), part, config)[1] for t, part in cuts)
    assert values(merged) == pytest.approx(reduced, rel=1e-5, abs=1e-6)


def test_the_loss_of_several_updates_is_averaged(flat):
    small = flat.make([1, 1], advantages=[-1.0, -1.0])
    large = flat.make([6], advantages=[-4.0] * 6)
    parts = [*flat.cut(small, [[0], [1]]), *flat.cut(large, [[0]])]
    merged = merge(policy_loss(outputs(torch.zeros(len(t))), part, clip_config())[1] for t, part in parts)
    assert merged["policy/loss"] == Metric(5.0, 2.0, "mean")  # losses 1 and 4 of two updates


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("with_old", [True, False])
def test_garbage_at_masked_positions_leaks_nowhere(flat, gradient_of, ratio, garbage, with_old):
    kl = KlConfig(coefficient=0.05, estimator="k2")  # the one whose gradient has no bound
    config = EVERYTHING.model_copy(update={"ratio": ratio, "kl": kl})
    batch = flat.random([9, 1, 6], seed=1)
    logprobs, entropy = near_old(batch)
    assert not batch.loss_mask.all()

    def spoil(tensor):
        return torch.where(batch.loss_mask, tensor, garbage)

    fields = ("advantages", "rollout_logprobs", "old_logprobs", "reference_logprobs")
    spoilt = dataclasses.replace(batch, **{name: spoil(getattr(batch, name)) for name in fields})
    if not with_old:
        batch, spoilt = (dataclasses.replace(b, old_logprobs=None) for b in (batch, spoilt))

    def run(given, x, h):
        return policy_loss(outputs(x, h), given, config)

    loss, metrics = run(batch, logprobs, entropy)
    dirty_loss, dirty_metrics = run(spoilt, spoil(logprobs), spoil(entropy))
    assert dirty_loss.item() == loss.item()
    assert dirty_metrics == metrics
    clean = gradient_of(lambda x: run(batch, x, entropy)[0], logprobs)
    dirty = gradient_of(lambda x: run(spoilt, x, spoil(entropy))[0], spoil(logprobs))
    assert dirty.tolist() == clean.tolist()
    dirty = gradient_of(lambda h: run(spoilt, spoil(logprobs), h)[0], spoil(entropy))
    assert dirty.tolist() == gradient_of(lambda h: run(batch, logprobs, h)[0], entropy).tolist()


def test_the_rollout_gap_is_measured_on_what_the_old_policy_sampled(flat):
    # The last two tokens are of an earlier policy: their old logprobs are those of generation, a gap of 0.
    batch = flat.make(
        [2, 2],
        rollout=[-1.0, -1.0, -3.0, -3.0],
        old=[-1.2, -1.0, -3.0, -3.0],
        on_policy=[True, True, False, False],
    )
    measured = values(policy_loss(outputs(torch.full((4,), -1.0)), batch, clip_config())[1])
    assert measured["policy/rollout_gap_mean"] == pytest.approx(0.1)
    assert measured["policy/rollout_gap_max"] == pytest.approx(0.2)
    stale = flat.make([2], rollout=[-3.0] * 2, old=[-3.0] * 2, on_policy=[False] * 2)
    measured = values(policy_loss(outputs(torch.full((2,), -1.0)), stale, clip_config())[1])
    assert not any(name.startswith("policy/rollout") for name in measured), "not 0: nothing was compared"
    assert measured["policy/ratio_mean"] == pytest.approx(math.exp(2.0))


def test_nothing_to_train_gives_zero_and_a_zero_gradient(flat, gradient_of):
    batch = flat.make([3], mask=[False] * 3, advantages=[1.0] * 3, reference=[0.0] * 3)
    logprobs = torch.tensor([-1.0, -2.0, -3.0])
    loss, metrics = policy_loss(outputs(logprobs), batch, EVERYTHING)
    assert loss.item() == 0.0
    assert (
        gradient_of(lambda x: policy_loss(outputs(x), batch, EVERYTHING)[0], logprobs).tolist() == [0.0] * 3
    )
    assert values(metrics) == {}  # no mean and no maximum over nothing


def test_a_batch_without_tokens(flat):
    batch = flat.make([], reference=[])
    loss, metrics = policy_loss(outputs(torch.zeros(0)), batch, EVERYTHING)
    assert loss.item() == 0.0
    assert metrics["policy/loss"].count == 0.0


def test_partial_makes_a_loss_function(flat):
    loss_function = partial(policy_loss, config=clip_config())
    loss, _ = loss_function(outputs(torch.zeros(1)), flat.make([1], advantages=[2.0]))
    assert loss.item() == pytest.approx(-2.0)


def test_surrogate_has_the_pessimistic_value_everywhere():
    config = clip_config(dual_clip=5.0)
    ratio = torch.linspace(0.01, 8, 200)
    for advantage in (1.5, -1.5):
        losses = clipped_surrogate(ratio, torch.full_like(ratio, advantage), config)
        if advantage > 0:
            expected = [-advantage * min(r, 1.28) for r in ratio.tolist()]
        else:
            expected = [-advantage * min(max(r, 0.8), 5.0) for r in ratio.tolist()]
        assert losses.tolist() == pytest.approx(expected, rel=1e-5)
