"""Importance weights of tokens and of responses, truncated, masked and rejected."""

from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig
from reasoner_rl.losses.mismatch import mismatch_ratio, mismatch_weights
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import TokenOutputs

LEVELS = ["token", "sequence", "geometric"]
KINDS = ["truncated", "masked", "rejected"]


def sampling(kind, level, cap=1.25, floor=0.8):
    bounds = {"none": {}, "truncated": {"cap": cap}}.get(kind, {"cap": cap, "floor": floor})
    return ImportanceSamplingConfig(kind=kind, level=level, **bounds)


@pytest.fixture
def by_hand(flat):
    """Weights 2, 0.5, 3 (not trained); 0.5, 0.5; and a response of which nothing is trained."""
    weights = torch.tensor([2.0, 0.5, 3.0, 0.5, 0.5, 7.0])
    mask = [True, True, False, True, True, False]
    return flat.make([3, 2, 1], mask=mask, old=weights.log(), advantages=[1.0] * 6)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [2.0, 0.5, 3.0, 0.5, 0.5, 7.0]),
        ("sequence", [1.0, 1.0, 1.0, 0.25, 0.25, 1.0]),
        ("geometric", [1.0, 1.0, 1.0, 0.5, 0.5, 1.0]),
    ],
)
def test_ratio_by_hand(by_hand, level, expected):
    ratio = mismatch_ratio(by_hand.old_logprobs, by_hand, level)
    assert ratio.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("truncated", "token", [1.25, 0.5, 0.5, 0.5]),
        ("truncated", "sequence", [1.0, 1.0, 0.25, 0.25]),
        ("masked", "geometric", [1.0, 1.0, 0.0, 0.0]),
        ("rejected", "token", [0.0, 0.0, 0.0, 0.0]),
        ("rejected", "sequence", [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_weights_by_hand(by_hand, kind, level, expected):
    weights = mismatch_weights(by_hand.old_logprobs, by_hand, sampling(kind, level))
    assert weights[by_hand.loss_mask].tolist() == pytest.approx(expected, rel=1e-6)


def test_rejected_keeps_tokens_at_their_full_weight(flat):
    batch = flat.make([2], old=[math.log(1.2), math.log(1.3)])
    assert mismatch_weights(batch.old_logprobs, batch, sampling("rejected", "token")).tolist() == [1.0, 0.0]
    masked = mismatch_weights(batch.old_logprobs, batch, sampling("masked", "token")).tolist()
    assert masked == pytest.approx([1.2, 0.0])


def test_the_product_of_a_long_response_stays_finite(flat):
    batch = flat.make([500, 500], old=[1.0] * 500 + [-1.0] * 500)
    ratio = mismatch_ratio(batch.old_logprobs, batch, "sequence")
    assert ratio[[0, -1]].tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-5)


def test_rejected_responses_are_counted_and_not_trained(by_hand, gradient_of):
    config = LossConfig(importance_sampling=sampling("masked", "sequence"), clip_low=0.5, clip_high=1.0)
    logprobs = by_hand.old_logprobs
    loss, metrics = policy_loss(TokenOutputs(logprobs, torch.zeros(6)), by_hand, config)
    assert loss.item() == pytest.approx(-2 / 4), "rejected tokens still count in the denominator"
    assert metrics["policy/importance_weight_mean"].value() == pytest.approx(0.5)
    assert metrics["policy/importance_weight_above"].value() == 0.0
    assert metrics["policy/importance_weight_below"].value() == 0.5
    gradient = gradient_of(
        lambda x: policy_loss(TokenOutputs(x, torch.zeros(6)), by_hand, config)[0], logprobs
    )
    assert gradient.tolist() == pytest.approx([-0.25, -0.25, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_and_loss_do_not_depend_on_the_cut(flat, kind, level):
    batch = flat.random([9, 4, 14, 6, 8], seed=5)
    config = LossConfig(importance_sampling=sampling(kind, level))
    logprobs = batch.old_logprobs + 0.1

    def run(part, x):
        return policy_loss(TokenOutputs(x, torch.zeros_like(x)), part, config)

    cuts = flat.cut(batch, [[3, 1], [4], [0, 2]])
    whole, metrics = run(batch, logprobs)
    results = [run(part, logprobs[tokens]) for tokens, part in cuts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(whole.item(), rel=1e-5, abs=1e-6)
    assert values(merge(found for _, found in results)) == pytest.approx(values(metrics), rel=1e-5, abs=1e-6)
    assert ("policy/importance_weight_below" in metrics) == (kind != "truncated")


@pytest.fixture
def correction():
    pytest.importorskip("verl")
    return pytest.importorskip("verl.trainer.ppo.rollout_corr_helper", exc_type=ImportError)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("kind", "threshold"), [("truncated", 1.25), ("masked", "0.8_1.25")])
def test_weights_are_those_of_verl(flat, correction, kind, threshold, level):
    batch = flat.random([9, 4, 14, 6, 8], seed=5)
    mask = flat.pad(batch.loss_mask.float(), batch)
    log_ratio = flat.pad(batch.old_logprobs - batch.rollout_logprobs, batch)
    theirs, metrics = correction.compute_rollout_correction_weights(log_ratio, mask, level, threshold)
    config = sampling(kind, level)
    ours = mismatch_weights(batch.old_logprobs, batch, config)
    torch.testing.assert_close(flat.pad(ours, batch) * mask, theirs, rtol=1e-5, atol=1e-6)
    found = policy_loss(
        TokenOutputs(batch.old_logprobs, torch.zeros(41)), batch, LossConfig(importance_sampling=config)
    )[1]
    if kind == "masked":
        outside = found["policy/importance_weight_above"].value()
        outside += found["policy/importance_weight_below"].value()
        assert outside == pytest.approx(metrics["rollout_is_oob_ratio"], abs=1e-6)
        assert 0 < outside < 1


@pytest.mark.parametrize(
    ("level", "name"), [("token", "token"), ("sequence", "seq_sum"), ("geometric", "seq_mean")]
)
def test_rejection_is_that_of_verl(flat, correction, level, name):
    batch = flat.random([9, 4, 14, 6, 8, 3, 5], seed=7)
    mask = flat.pad(batch.loss_mask.float(), batch)
    log_ratio = flat.pad(batch.old_logprobs - batch.rollout_logprobs, batch)
    # verl's k1 is log(rollout / trainer), so its bounds are the reciprocals of ours.
    cap, floor = (1.05, 0.9) if level == "geometric" else (1.25, 0.6)
    theirs, _ = correction.compute_rollout_rejection_mask(
        log_ratio, mask, f"{name}_k1", f"{1 / cap}_{1 / floor}"
    )
    ours = mismatch_weights(batch.old_logprobs, batch, sampling("rejected", level, cap, floor))
    assert torch.equal(flat.pad(ours, batch) * mask, theirs)
    assert 0 < theirs.sum() < mask.sum()
