"""Losses of reward models: by hand, against TRL's trainer, signs of gradients, and cuts that change nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from preference_batches import outputs, with_an_idle_sequence

from reasoner_rl.config.reward_model import PointwiseConfig
from reasoner_rl.losses.reward_model import bradley_terry_loss, label_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import ValueOutputs

MARGINS = [0.5, 0.0, 2.0, 0.1]
CONFIGS = {"plain": PointwiseConfig(), "centred": PointwiseConfig(center=0.3)}


def pairs(flat, margins=MARGINS):
    rewards = [number for margin in margins for number in (margin, 0.0)]
    return flat.make([1] * 8, groups=[0, 0, 1, 1, 2, 2, 3, 3], rewards=rewards)


def scores(seed=0):
    return 2 * torch.randn(8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "margin", "expected"),
    [
        (PointwiseConfig(), 0.0, math.log1p(math.exp(-1.5))),
        (PointwiseConfig(), 1.0, math.log1p(math.exp(-0.5))),
        (PointwiseConfig(center=0.1), 0.0, math.log1p(math.exp(-1.5)) + 0.1 * 0.25),
    ],
)
def test_bradley_terry_by_hand(flat, config, margin, expected):
    batch = flat.make([1, 1], groups=[4, 4], rewards=[margin, 0.0])
    loss, metrics = bradley_terry_loss(ValueOutputs(torch.tensor([1.0, -0.5])), batch, config)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert values(metrics) == pytest.approx(
        {
            "reward_model/loss": expected,
            "rewards/chosen": 1.0,
            "rewards/rejected": -0.5,
            "rewards/margins": 1.5,
            "rewards/accuracies": 1.0,
        }
    )


def test_the_chosen_answer_rises_and_the_rejected_one_falls(flat, gradient_of):
    gradient = gradient_of(
        lambda given: bradley_terry_loss(ValueOutputs(given), pairs(flat), PointwiseConfig())[0], scores()
    )
    assert (gradient[::2] < 0).all()
    assert (gradient[1::2] > 0).all()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("with_margins", [True, False])
def test_the_same_loss_and_gradient_as_trl(flat, gradient_of, name, with_margins):
    trl = pytest.importorskip("trl")
    config, chosen_first = CONFIGS[name], torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=config.center or None),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )

    def theirs(given):
        inputs = {"attention_mask": torch.ones(8, 1, dtype=torch.int64)}
        if with_margins:
            inputs["margin"] = torch.tensor(MARGINS)
        said = SimpleNamespace(logits=given[chosen_first][:, None])
        return trl.RewardTrainer.compute_loss(trainer, lambda **_: said, inputs)

    batch = pairs(flat, MARGINS if with_margins else [0.0] * 4)

    def ours(given):
        return bradley_terry_loss(ValueOutputs(given), batch, config)[0]

    for seed in range(3):
        given = scores(seed)
        torch.testing.assert_close(ours(given), theirs(given), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient_of(ours, given), gradient_of(theirs, given), rtol=1e-5, atol=1e-7)
    _, metrics = bradley_terry_loss(ValueOutputs(given), batch, config)
    found = values(metrics)
    assert found["rewards/accuracies"] == pytest.approx(trainer._metrics["train"]["accuracy"][-1])
    assert found["rewards/margins"] == pytest.approx(trainer._metrics["train"]["margin"][-1], rel=1e-5)


@pytest.mark.parametrize("cut", [[[0, 1], [2, 3, 4, 5], [6, 7]], [[2, 3, 6, 7], [0, 1, 4, 5]]])
def test_a_cut_changes_nothing(flat, cut):
    config, given = PointwiseConfig(center=0.2), scores()
    whole, measured = bradley_terry_loss(ValueOutputs(given), pairs(flat), config)
    parts = [
        bradley_terry_loss(ValueOutputs(given[tokens]), part, config)
        for tokens, part in flat.cut(pairs(flat), cut)
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    assert values(merge([metrics for _, metrics in parts])) == pytest.approx(values(measured), rel=1e-6)


def test_an_idle_rank_adds_nothing_and_has_a_graph(flat):
    given = scores().requires_grad_()
    tokens, part = with_an_idle_sequence(flat, pairs(flat), [0])
    loss, metrics = bradley_terry_loss(ValueOutputs(given[tokens]), part, PointwiseConfig(center=1.0))
    loss.backward()
    assert loss.item() == 0
    assert not given.grad.any()
    assert all(metric.count == 0 for metric in metrics.values())


def test_label_loss_by_hand_and_in_parts(flat):
    batch, logprobs = flat.make([1, 1, 1]), torch.tensor([-0.1, -2.0, -0.6])
    loss, metrics = label_loss(outputs(logprobs), batch)
    assert loss.item() == pytest.approx(0.9)
    assert values(metrics) == pytest.approx(
        {"reward_model/loss": 0.9, "reward_model/label_probability": float(logprobs.exp().mean())}
    )
    parts = [label_loss(outputs(logprobs[tokens]), part) for tokens, part in flat.cut(batch, [[0], [1, 2]])]
    assert float(sum(loss for loss, _ in parts)) == pytest.approx(0.9)
    assert values(merge([m for _, m in parts])) == pytest.approx(values(metrics))
    _, idle = with_an_idle_sequence(flat, batch, [0])
    nothing, counted = partial(label_loss, outputs(logprobs[:1]))(idle)
    assert (nothing.item(), counted["reward_model/loss"].count) == (0, 0)
