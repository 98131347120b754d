from __future__ import annotations

import pytest
import torch

from reasoner_rl.losses.supervised import supervised_loss, weighted_supervised_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.types import TokenOutputs

LOGPROBS = torch.tensor([-1.0, -2.0, -torch.inf, -0.5])
MASK = [True, True, False, True]


def outputs(logprobs):
    return TokenOutputs(logprobs, torch.zeros_like(logprobs))


def test_mean_negative_log_likelihood_of_the_trained_tokens(flat):
    loss, metrics = supervised_loss(outputs(LOGPROBS), flat.make([3, 1], mask=MASK))
    assert loss.item() == pytest.approx(3.5 / 3)
    assert metrics["sft/loss"].value() == pytest.approx(3.5 / 3)
    assert metrics["sft/loss"].count == 3


def test_micro_batches_add_up(flat, gradient_of):
    batch = flat.make([3, 1], mask=MASK)
    parts = flat.cut(batch, [[1], [0]])
    results = [supervised_loss(outputs(LOGPROBS[tokens]), part) for tokens, part in parts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(3.5 / 3)
    assert merge(metrics for _, metrics in results)["sft/loss"].value() == pytest.approx(3.5 / 3)
    gradient = gradient_of(lambda x: supervised_loss(outputs(x), batch)[0], LOGPROBS)
    assert gradient.tolist() == pytest.approx([-1 / 3, -1 / 3, 0.0, -1 / 3])


def test_nothing_to_train(flat):
    loss, metrics = supervised_loss(outputs(LOGPROBS), flat.make([4], mask=[False] * 4))
    assert loss.item() == 0.0
    assert metrics["sft/loss"].count == 0


def test_weights_of_answers(flat, gradient_of):
    """Weight 2 of an answer of two tokens, weight -1 of another of one: -(2 (-1 - 2) - (-0.5)) / 3."""
    weights = [2.0, 2.0, 5.0, -1.0]
    batch = flat.make([3, 1], mask=MASK, advantages=weights)
    loss, metrics = weighted_supervised_loss(outputs(LOGPROBS), batch)
    assert loss.item() == pytest.approx(5.5 / 3)
    assert values(metrics) == pytest.approx({"preference/loss": 5.5 / 3, "preference/nll": 3.5 / 3})
    parts = flat.cut(batch, [[1], [0]])
    results = [weighted_supervised_loss(outputs(LOGPROBS[tokens]), part) for tokens, part in parts]
    assert sum(loss.item() for loss, _ in results) == pytest.approx(5.5 / 3)
    assert values(merge(found for _, found in results)) == pytest.approx(values(metrics))
    gradient = gradient_of(lambda x: weighted_supervised_loss(outputs(x), batch)[0], LOGPROBS)
    assert gradient.tolist() == pytest.approx([-2 / 3, -2 / 3, 0.0, 1 / 3])
