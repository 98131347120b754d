from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.advantages.statistics import column_metrics, critic_metrics, explained_variance, whiten
from reasoner_rl.metrics import values as numbers

MASKS = [torch.tensor([True, False, True]), torch.tensor([True])]


def columns(*given):
    return [torch.tensor(column) for column in given]


def test_whiten_by_hand():
    # 1, 2 and 6: mean 3, variance (4 + 1 + 9) / 2 = 7.
    found = whiten(columns([1.0, math.nan, 2.0], [6.0]), MASKS)
    scale = 7**-0.5
    assert found[0].tolist() == pytest.approx([-2 * scale, 0.0, -scale])
    assert found[1].tolist() == pytest.approx([3 * scale])
    assert found[0].dtype == torch.float32


@pytest.mark.parametrize("masks", [[[False] * 3, [True]], [[False] * 3, [False]]])
def test_fewer_than_two_numbers_have_no_spread(masks):
    found = whiten(columns([1.0, 2.0, 3.0], [6.0]), columns(*masks))
    assert [column.tolist() for column in found] == [[0.0] * 3, [0.0]]
    assert whiten([], []) == []


def test_equal_numbers_stay_equal_and_small():
    found = whiten([torch.full((1000,), 0.1)], [torch.ones(1000, dtype=torch.bool)])
    assert found[0].abs().max() < 1e-6


def test_whiten_is_that_of_verl():
    pytest.importorskip("verl")
    functional = pytest.importorskip("verl.utils.torch_functional", exc_type=ImportError)
    generator = torch.Generator().manual_seed(0)
    given = [5 + 3 * torch.randn(n, generator=generator) for n in (9, 1, 14)]
    masks = [torch.rand(n, generator=generator) > 0.2 for n in (9, 1, 14)]

    def pad(parts):
        return torch.nn.utils.rnn.pad_sequence([part.float() for part in parts], batch_first=True)

    theirs = functional.masked_whiten(pad(given), pad(masks)) * pad(masks)
    torch.testing.assert_close(pad(whiten(given, masks)), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([1.0, 2.0, 6.0], 1.0),
        ([2.0, 3.0, 7.0], 1.0),  # off by a constant
        ([5.0, 5.0, 5.0], 0.0),
        ([6.0, 2.0, 1.0], 1 - (50 / 3) / (14 / 3)),  # errors -5, 0, 5
    ],
)
def test_explained_variance_by_hand(said, expected):
    wanted = columns([1.0, math.inf, 2.0], [6.0])
    given = columns([said[0], math.nan, said[1]], [said[2]])
    assert explained_variance(wanted, given, MASKS) == pytest.approx(expected)


def test_nothing_to_explain_is_not_a_number():
    constant = columns([1.0, 9.0, 1.0], [1.0])
    assert math.isnan(explained_variance(constant, columns([0.0, 0.0, 2.0], [1.0]), MASKS))
    assert math.isnan(explained_variance([], [], []))


def test_critic_metrics_by_hand():
    found = numbers(critic_metrics(columns([1.0, 9.0, 2.0], [6.0]), columns([2.0, 9.0, 2.0], [3.0]), MASKS))
    # Errors 1, 0, -3 have mean -2/3 and variance 10/3 - 4/9; the returns' is 14/3.
    assert found == pytest.approx(
        {
            "value/explained_variance": 1 - (10 / 3 - 4 / 9) / (14 / 3),
            "value/error_mean": -2 / 3,
            "value/error_rms": math.sqrt(10 / 3),
            "value/return_mean": 3.0,
            "value/return_std": math.sqrt(14 / 3),
            "value/return_min": 1.0,
            "value/return_max": 6.0,
        }
    )


def test_metrics_of_one_token_and_of_none():
    one = critic_metrics(columns([1.0]), columns([3.0]), columns([True]))
    assert "value/explained_variance" not in one
    assert numbers(one)["value/error_rms"] == 2.0
    assert critic_metrics(columns([1.0]), columns([3.0]), columns([False])) == {}
    assert column_metrics("advantage", columns([1.0]), columns([False])) == {}
    assert numbers(column_metrics("advantage", columns([-2.0]), columns([True]))) == {
        "advantage_mean": -2.0,
        "advantage_std": 0.0,
        "advantage_min": -2.0,
        "advantage_max": -2.0,
    }
