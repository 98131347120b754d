"""Losses of pairs: by hand, signs of gradients, and cuts that change nothing. Parity with TRL is a file of its own."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from preference_batches import by_answer, outputs, random_pairs, with_an_idle_sequence

from reasoner_rl.config.preference import DpoConfig, OrpoConfig, SimpoConfig
from reasoner_rl.losses.pairs import dpo_loss, orpo_loss, pairs_of, simpo_loss
from reasoner_rl.metrics import merge, values

LOSSES = {
    "sigmoid": partial(dpo_loss, config=DpoConfig(beta=0.5)),
    "conservative": partial(dpo_loss, config=DpoConfig(beta=0.5, label_smoothing=0.2)),
    "per token": partial(dpo_loss, config=DpoConfig(beta=0.5, length_normalized=True)),
    "ipo": partial(dpo_loss, config=DpoConfig(objective="ipo", beta=0.5)),
    "ipo of sums": partial(dpo_loss, config=DpoConfig(objective="ipo", beta=0.1, length_normalized=False)),
    "hinge": partial(dpo_loss, config=DpoConfig(objective="hinge", beta=0.2)),
    "nll and kl": partial(dpo_loss, config=DpoConfig(nll_coefficient=0.3, kl_coefficient=0.2)),
    "orpo": partial(orpo_loss, config=OrpoConfig(odds_ratio_weight=0.7)),
    "simpo": partial(simpo_loss, config=SimpoConfig()),
    "simpo and nll": partial(simpo_loss, config=SimpoConfig(nll_coefficient=0.3)),
}


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# One pair: the chosen answer has logprobs -1 and -2, the rejected one -3. The reference says -1.5 each.
# Log-ratios: chosen 0.5 - 0.5 = 0 of 2 tokens, rejected -1.5. The lead is 1.5, and per token 1.5 too.
LOGPROBS, REFERENCE = torch.tensor([-1.0, -2.0, -3.0]), [-1.5, -1.5, -1.5]
ODDS = [mean - math.log1p(-math.exp(mean)) for mean in (-1.5, -3.0)]
K3 = [math.exp(d) - d - 1 for d in (-0.5, 0.5, 1.5)]  # d: reference less policy
BY_HAND = {
    "sigmoid": (DpoConfig(beta=0.2), -log_sigmoid(0.3)),
    "conservative": (
        DpoConfig(beta=0.2, label_smoothing=0.1),
        -0.9 * log_sigmoid(0.3) - 0.1 * log_sigmoid(-0.3),
    ),
    "ipo": (DpoConfig(objective="ipo", beta=0.2), (1.5 - 2.5) ** 2),
    "hinge": (DpoConfig(objective="hinge", beta=0.2), 0.7),
    "nll": (DpoConfig(beta=0.2, nll_coefficient=2.0), -log_sigmoid(0.3) + 2 * 1.5),
    "kl": (DpoConfig(beta=0.2, kl_coefficient=3.0), -log_sigmoid(0.3) + sum(K3)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_dpo_by_hand(flat, case):
    config, expected = BY_HAND[case]
    batch = flat.make([2, 1], reference=REFERENCE, groups=[5, 5])
    loss, metrics = dpo_loss(outputs(LOGPROBS), batch, config)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    found = values(metrics)
    assert found["rewards/chosen"] == pytest.approx(0.0)
    assert found["rewards/rejected"] == pytest.approx(-0.3)
    assert found["rewards/margins"] == pytest.approx(0.3)
    assert found["rewards/accuracies"] == 1.0
    assert (found["logps/chosen"], found["logps/rejected"]) == (-3.0, -3.0)
    assert found["preference/kl"] == pytest.approx(sum(K3) / 3)
    assert ("preference/nll" in found) == (case == "nll")


def test_length_normalisation_by_hand(flat):
    batch = flat.make([2, 1], reference=[-2.0, -3.0, -1.5], groups=[0, 0])  # ratios 1 + 1 and -1.5
    config = DpoConfig(beta=0.2, length_normalized=True)
    loss, metrics = dpo_loss(outputs(LOGPROBS), batch, config)
    assert loss.item() == pytest.approx(-log_sigmoid(0.2 * 2.5))
    assert metrics["rewards/margins"].value() == pytest.approx(0.2 * 3.5), "rewards are those of DPO"


def test_orpo_and_simpo_by_hand(flat):
    batch = flat.make([2, 1], groups=[0, 0])
    loss, metrics = orpo_loss(outputs(LOGPROBS), batch, OrpoConfig(odds_ratio_weight=0.5))
    assert loss.item() == pytest.approx(1.5 - 0.5 * log_sigmoid(ODDS[0] - ODDS[1]))
    assert values(metrics) == pytest.approx(
        {
            "preference/loss": -0.5 * log_sigmoid(ODDS[0] - ODDS[1]),
            "preference/nll": 1.5,
            "rewards/chosen": -0.75,
            "rewards/rejected": -1.5,
            "rewards/margins": 0.75,
            "rewards/accuracies": 1.0,
            "logps/chosen": -3.0,
            "logps/rejected": -3.0,
        }
    )
    loss, metrics = simpo_loss(
        outputs(LOGPROBS), batch, SimpoConfig(beta=2.0, gamma=0.5, nll_coefficient=0.1)
    )
    assert loss.item() == pytest.approx(-log_sigmoid(2 * 1.5 - 0.5) + 0.1 * 1.5)
    assert metrics["rewards/margins"].value() == pytest.approx(3.0)


def test_orpo_is_finite_where_an_answer_is_certain(flat, gradient_of):
    batch = flat.make([2, 1], groups=[0, 0])
    certain = torch.tensor([0.0, 0.0, -3.0])
    for logprobs in (certain, certain.flip(0).roll(-1)):
        gradient = gradient_of(lambda x: orpo_loss(outputs(x), batch, OrpoConfig())[0], logprobs)
        assert gradient.isfinite().all()


# The lead of summed log-ratios at which an objective is content; beyond it, it pulls back.
AIMS = {"conservative": math.log(0.8 / 0.2) / 0.5, "ipo of sums": 1 / (2 * 0.1)}


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "nll and kl"])
def test_the_chosen_answer_is_raised_and_the_rejected_one_lowered(flat, gradient_of, name):
    batch, logprobs = random_pairs(flat)
    gradient = gradient_of(lambda x: LOSSES[name](outputs(x), batch)[0], logprobs)
    sums = by_answer(logprobs - batch.reference_logprobs, batch)
    wanted = torch.where(sums[0::2] - sums[1::2] < AIMS.get(name, math.inf), 1.0, -1.0)
    up = torch.stack([wanted, -wanted], dim=1).flatten()[batch.sequence_ids]
    assert (-gradient.sign() == torch.where(batch.loss_mask, up, 0.0)).all()
    if name == "conservative":
        assert wanted.tolist() == [1.0, -1.0, 1.0, 1.0], "one pair is beyond it"


@pytest.mark.parametrize("name", LOSSES)
def test_cuts_between_pairs_change_nothing(flat, gradient_of, name):
    loss_of = LOSSES[name]
    batch, logprobs = random_pairs(flat, seed=1)
    # What is not trained may be anything.
    logprobs = torch.where(batch.loss_mask, logprobs, torch.nan)
    whole, metrics = loss_of(outputs(logprobs), batch)
    parts = flat.cut(batch, [[4, 5], [0, 1, 6, 7]])
    parts.append(with_an_idle_sequence(flat, batch, [2, 3, 0]))
    parts.append(with_an_idle_sequence(flat, batch, [1]))  # no pair at all
    results = [loss_of(outputs(logprobs[tokens]), part) for tokens, part in parts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(whole.item(), rel=1e-6)
    assert values(merge(found for _, found in results)) == pytest.approx(values(metrics), rel=1e-5)
    assert results[-1][0].item() == 0.0
    expected = gradient_of(lambda x: loss_of(outputs(x), batch)[0], logprobs)
    found = torch.zeros_like(expected)
    for tokens, part in parts:
        found[tokens] += gradient_of(lambda x, part=part: loss_of(outputs(x), part)[0], logprobs[tokens])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert expected.isfinite().all()


def test_a_group_of_one_answer_is_no_pair(flat):
    batch, logprobs = random_pairs(flat)
    [(tokens, part)] = flat.cut(batch, [[0, 1, 4]])
    for loss_of in LOSSES.values():
        with pytest.raises(ValueError, match=r"group 2 has 1 answers in a micro-batch; a pair has a chosen"):
            loss_of(outputs(logprobs[tokens]), part)


def test_the_first_of_a_group_is_the_chosen_one_wherever_it_stands(flat):
    batch = flat.make([1, 1, 1, 1], groups=[3, 8, 8, 3])
    pairs = pairs_of(torch.tensor([1.0, 2.0, 3.0, 4.0]), batch)
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([1.0, 2.0], [4.0, 3.0])


def test_dpo_without_a_reference(flat):
    batch = flat.make([2, 1], groups=[0, 0])
    with pytest.raises(ValueError, match="DPO needs reference logprobs"):
        dpo_loss(outputs(LOGPROBS), batch, DpoConfig())
