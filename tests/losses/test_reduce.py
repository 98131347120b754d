from __future__ import annotations

from typing import get_args

import pytest
import torch

from reasoner_rl.config.algorithm import Aggregation
from reasoner_rl.losses.reduce import aggregate, sequence_means

MODES = get_args(Aggregation)
VALUES = torch.tensor([1.0, 2.0, 3.0, 100.0, 10.0, 20.0])  # a response of four tokens, and one of two
MASK = [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 36 / 5),  # (1 + 2 + 3 + 10 + 20) / 5
        ("seq-mean-token-mean", (2 + 15) / 2),
        ("seq-mean-token-sum-norm", (6 + 30) / 2 / 10),
    ],
)
def test_by_hand(flat, mode, expected):
    batch = flat.make([4, 2], mask=MASK, max_response_tokens=10)
    assert aggregate(VALUES, batch, mode).item() == pytest.approx(expected, rel=1e-6)


def test_sequence_means_by_hand(flat):
    batch = flat.make([4, 2, 1], mask=[*MASK, False])
    means = sequence_means(torch.cat([VALUES, torch.tensor([torch.nan])]), batch)
    assert means.tolist() == [2.0, 2.0, 2.0, 2.0, 15.0, 15.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "parts",
    [
        [[0, 1, 2, 3, 4]],
        [[0], [1], [2], [3], [4]],
        [[3, 1], [4], [0, 2]],
        [[4, 3, 2], [1, 0]],
    ],
)
def test_value_and_gradient_do_not_depend_on_the_cut(flat, gradient_of, mode, parts):
    batch = flat.random([7, 1, 4, 12, 3], seed=3)
    values = torch.randn(27, generator=torch.Generator().manual_seed(4))

    def whole(x):
        return aggregate(x.square(), batch, mode)

    def in_parts(x):
        return sum(aggregate(x[tokens].square(), part, mode) for tokens, part in flat.cut(batch, parts))

    torch.testing.assert_close(in_parts(values), whole(values), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        gradient_of(in_parts, values), gradient_of(whole, values), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_train_gives_zero_and_a_zero_gradient(flat, gradient_of, mode):
    batch = flat.make([2, 1], mask=[False] * 3, max_response_tokens=0)
    values = torch.tensor([1.0, torch.inf, torch.nan])
    assert aggregate(values, batch, mode).item() == 0.0
    assert gradient_of(lambda x: aggregate(x, batch, mode), values).tolist() == [0.0] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_tokens_gives_zero(flat, mode):
    assert aggregate(torch.zeros(0), flat.make([]), mode).item() == 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_garbage_at_masked_positions_leaks_nowhere(flat, gradient_of, mode, garbage):
    batch = flat.make([4, 2], mask=MASK)
    dirty = VALUES.clone()
    dirty[3] = garbage
    assert aggregate(dirty, batch, mode).item() == aggregate(VALUES, batch, mode).item()
    clean_gradient = gradient_of(lambda x: aggregate(x, batch, mode), VALUES)
    assert gradient_of(lambda x: aggregate(x, batch, mode), dirty).tolist() == clean_gradient.tolist()
    assert clean_gradient[3].item() == 0.0


def test_a_fully_masked_response_is_not_counted_as_a_sequence(flat):
    batch = flat.make([2, 2], mask=[True, True, False, False])
    values = torch.tensor([1.0, 3.0, 50.0, 50.0])
    assert aggregate(values, batch, "seq-mean-token-mean").item() == pytest.approx(2.0)
