"""Pass rates: counts, the interval's ends, the choice, and the bins of the histogram."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reasoner_rl.evaluation.pass_rates import PassRate, chosen, histogram
from reasoner_rl.types import ScoredGroup


def test_an_answer_passes_if_its_accuracy_is_one(scored_group: Callable[..., ScoredGroup]) -> None:
    assert PassRate.of_group(scored_group([1, -1, 1, 1], [1.0, 0.0, 0.5, 1.0])) == PassRate(2, 4)
    assert PassRate.of_group(scored_group([1, -1], [1.0, None])) is None


def test_the_columns_of_a_problem() -> None:
    columns = PassRate(2, 8).columns()
    assert (columns["pass_rate"], columns["pass_rate_samples"]) == (0.25, 8)
    # Ends of Wilson's interval: the shares p with (p - 0.25)^2 = z^2 p (1 - p) / 8.
    for end in ("pass_rate_low", "pass_rate_high"):
        share = columns[end]
        assert (share - 0.25) ** 2 == pytest.approx(1.959964**2 * share * (1 - share) / 8, rel=1e-5)
    assert 0 < columns["pass_rate_low"] < 0.25 < columns["pass_rate_high"] < 1


def test_the_choice_has_both_bounds_inside_and_equals_in_order() -> None:
    rates = [PassRate(passed, 4) for passed in (1, 4, 3, 0, 3, 2)]
    assert chosen(rates, 0, 1, "none") == [0, 1, 2, 3, 4, 5]
    assert chosen(rates, 0.25, 0.75, "none") == [0, 2, 4, 5]
    assert chosen(rates, 0.25, 0.75, "easy-first") == [2, 4, 5, 0]
    assert chosen(rates, 0.6, 0.7, "easy-first") == []


def test_bins_of_few_and_of_many_samples() -> None:
    assert histogram([PassRate(passed, 2) for passed in (0, 2, 2)]) == [("0/2", 1), ("1/2", 0), ("2/2", 2)]
    many = dict(histogram([PassRate(passed, 40) for passed in (0, 1, 3, 4, 39, 40, 40)]))
    assert (many["none"], many["0-10 %"], many["10-20 %"], many["90-100 %"], many["all"]) == (1, 2, 1, 1, 2)
    assert sum(many.values()) == 7
