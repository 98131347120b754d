"""KTO's loss: by hand, signs of gradients, and cuts that change nothing. Parity with TRL is a file of its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from preference_batches import by_answer, outputs, random_labels, with_an_idle_sequence

from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.losses.kto import kto_loss
from reasoner_rl.metrics import merge, values

CONFIG = KtoConfig(beta=0.3, desirable_weight=1.5, undesirable_weight=0.8)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand(flat):
    # Log-ratios 0.5 + 1.5 of the good answer and -1 of the bad one; z0 is 0.4.
    batch = flat.make([2, 1], reference=[-1.5, -3.5, -2.0], kl_baseline=[0.4] * 3, rewards=[1.0, 0.0])
    loss, metrics = kto_loss(outputs(torch.tensor([-1.0, -2.0, -3.0])), batch, CONFIG)
    good, bad = 1.5 * (1 - sigmoid(0.3 * 1.6)), 0.8 * (1 - sigmoid(0.3 * 1.4))
    assert loss.item() == pytest.approx((good + bad) / 2)
    assert values(metrics) == pytest.approx(
        {
            "preference/loss": (good + bad) / 2,
            "rewards/chosen": 0.6,
            "rewards/rejected": -0.3,
            "logps/chosen": -3.0,
            "logps/rejected": -3.0,
        }
    )


def test_good_answers_are_raised_and_bad_ones_lowered(flat, gradient_of):
    batch, logprobs = random_labels(flat)
    gradient = gradient_of(lambda x: kto_loss(outputs(x), batch, CONFIG)[0], logprobs)
    good = (batch.rewards > 0.5)[batch.sequence_ids]
    assert (gradient[good & batch.loss_mask] < 0).all()
    assert (gradient[~good & batch.loss_mask] > 0).all()
    assert (gradient[~batch.loss_mask] == 0).all()


def test_the_estimate_moves_the_loss(flat):
    batch, logprobs = random_labels(flat)
    ratios = by_answer(logprobs - batch.reference_logprobs, batch)
    good = batch.rewards > 0.5
    for estimate in (0.0, 5.0):
        part = dataclasses.replace(batch, kl_baseline=torch.full_like(logprobs, estimate))
        signed = torch.where(good, ratios - estimate, estimate - ratios)
        expected = torch.where(good, 1.5, 0.8) * (1 - torch.sigmoid(0.3 * signed))
        assert kto_loss(outputs(logprobs), part, CONFIG)[0].item() == pytest.approx(expected.mean().item())


def test_cuts_and_idle_sequences_change_nothing(flat, gradient_of):
    batch, logprobs = random_labels(flat, seed=1)
    logprobs = torch.where(batch.loss_mask, logprobs, torch.nan)
    whole, metrics = kto_loss(outputs(logprobs), batch, CONFIG)
    parts = flat.cut(batch, [[7, 2], [1, 4, 6]])
    parts.append(with_an_idle_sequence(flat, batch, [0, 3, 5, 2]))
    parts.append(with_an_idle_sequence(flat, batch, [0]))
    results = [kto_loss(outputs(logprobs[tokens]), part, CONFIG) for tokens, part in parts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(whole.item(), rel=1e-6)
    assert values(merge(found for _, found in results)) == pytest.approx(values(metrics), rel=1e-5)
    assert results[-1][0].item() == 0.0
    expected = gradient_of(lambda x: kto_loss(outputs(x), batch, CONFIG)[0], logprobs)
    found = torch.zeros_like(expected)
    for tokens, part in parts:
        found[tokens] += gradient_of(
            lambda x, part=part: kto_loss(outputs(x), part, CONFIG)[0], logprobs[tokens]
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert expected.isfinite().all()


@pytest.mark.parametrize("columns", [{"reference": [0.0]}, {"kl_baseline": [0.0]}])
def test_what_it_needs(flat, columns):
    with pytest.raises(ValueError, match="KTO needs reference logprobs and an estimate"):
        kto_loss(outputs(torch.zeros(1)), flat.make([1], **columns), CONFIG)
