"""Scores of compared answers: by hand, and against direct maximisation of the likelihood."""

from __future__ import annotations

from math import exp, log

import numpy
import pytest

from reasoner_rl.prompts.bradley_terry import bradley_terry
from reasoner_rl.prompts.ranking_scores import (
    components,
    cycles,
    elo_ratings,
    has_finite_scores,
    majorities,
    normalized,
    win_matrix,
)


def wins(*won: tuple[int, int, float]) -> dict[tuple[int, int], float]:
    """From (winner, loser, how often)."""
    found: dict[tuple[int, int], float] = {}
    for winner, loser, number in won:
        found[winner, loser] = found.get((winner, loser), 0.0) + number
        found.setdefault((loser, winner), 0.0)
    return found


def test_what_is_connected_and_what_goes_in_cycles() -> None:
    # 0 beats 1 beats 2 beats 0; 2 beats 3; 4 and 5 are apart and equal; nobody compared 6.
    won = wins((0, 1, 2), (1, 0, 1), (1, 2, 1), (2, 0, 1), (2, 3, 1), (5, 4, 0.5), (4, 5, 0.5))
    assert components(7, won) == [[0, 1, 2, 3], [4, 5], [6]]
    assert majorities(won) == [(0, 1), (1, 2), (2, 0), (2, 3)]
    assert cycles(7, won) == [[0, 1, 2]]
    assert not has_finite_scores([0, 1, 2, 3], won), "3 lost everything"
    assert has_finite_scores([4, 5], won)
    long = wins(*((number, (number + 1) % 6, 1) for number in range(6)))
    assert cycles(6, long) == [list(range(6))], "a cycle without any of three"
    assert has_finite_scores(list(range(6)), long)
    assert cycles(3, wins((0, 1, 1), (1, 2, 0.5), (2, 1, 0.5), (2, 0, 0.5), (0, 2, 0.5))) == [], (
        "ties are none"
    )


def test_two_answers_by_hand() -> None:
    pytest.importorskip("choix")
    won = wins((0, 1, 3), (1, 0, 1))
    found = bradley_terry(win_matrix([0, 1], won))
    assert found is not None
    assert found == pytest.approx([log(3) / 2, -log(3) / 2], abs=1e-9)
    regularized = bradley_terry(win_matrix([0, 1], won, 0.5))
    assert regularized is not None
    assert regularized[0] - regularized[1] == pytest.approx(log(3.5 / 1.5), abs=1e-9)
    always = bradley_terry(win_matrix([0, 1], wins((0, 1, 1)), 0.1))
    assert always is not None
    assert always[0] - always[1] == pytest.approx(log(11), abs=1e-9)
    # 1:1 and ties are equal; a win and a tie are 1.5 to 0.5.
    tied = bradley_terry(win_matrix([0, 1], wins((0, 1, 1.5), (1, 0, 0.5))))
    assert tied is not None
    assert tied[0] - tied[1] == pytest.approx(log(3), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_bradley_terry_against_the_likelihood_itself(seed: int, alpha: float) -> None:
    pytest.importorskip("choix")
    from scipy.optimize import minimize

    random = numpy.random.default_rng(seed)
    count = 6
    won = wins(*((i, (i + 1) % count, 0.5) for i in range(count)))  # a ring, so that all is connected
    for i in range(count):
        for j in random.permutation(count)[:3]:
            if i != j:
                key = (i, int(j))
                won[key] = won.get(key, 0.0) + float(random.integers(1, 9)) / 2
                won.setdefault(key[::-1], 0.0)
    matrix = win_matrix(range(count), won, alpha)

    def loss(strengths: numpy.ndarray) -> float:
        odds = strengths[:, None] - strengths[None, :]
        return float((matrix * numpy.logaddexp(0, -odds)).sum())

    best = minimize(loss, numpy.zeros(count), method="BFGS", options={"gtol": 1e-8}).x
    found = bradley_terry(matrix)
    assert found is not None
    assert found == pytest.approx(best - best.mean(), abs=1e-5)
    assert found.sum() == pytest.approx(0.0, abs=1e-12)
    assert loss(found) <= loss(best) + 1e-12
    shuffled = random.permutation(count)
    again = bradley_terry(win_matrix([int(i) for i in shuffled], won, alpha))
    assert again == pytest.approx(found[shuffled], abs=1e-8), "the order of the answers does not matter"


def test_what_cannot_be_computed_is_told() -> None:
    pytest.importorskip("choix")
    chain = wins(*((number, number + 1, 1) for number in range(99)))
    assert bradley_terry(win_matrix(range(100), chain, 0.01)) is None


def test_elo_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    one = numpy.array([[0.0, 1.0], [0.0, 0.0]])
    monkeypatch.setattr("reasoner_rl.prompts.ranking_scores.ELO_PERIODS", 1)
    assert elo_ratings(one) == pytest.approx([1016.0, 984.0]), "as after one game"
    monkeypatch.setattr("reasoner_rl.prompts.ranking_scores.ELO_PERIODS", 2)
    second = 16 + 32 * (1 - 1 / (1 + 10 ** (-32 / 400)))
    assert elo_ratings(one) == pytest.approx([1000 + second, 1000 - second])
    # Each of 0's two games moves it by half of K: it has the most. 1 and 2 have one game each.
    monkeypatch.setattr("reasoner_rl.prompts.ranking_scores.ELO_PERIODS", 1)
    three = win_matrix([0, 1, 2], wins((0, 1, 1), (0, 2, 0.5), (2, 0, 0.5)))
    assert elo_ratings(three) == pytest.approx([1008.0, 992.0, 1000.0])


def test_elo_goes_to_the_log_odds_of_the_wins_and_finds_cycles_equal() -> None:
    ratings = elo_ratings(win_matrix([0, 1], wins((0, 1, 3), (1, 0, 1))))
    assert ratings[0] - ratings[1] == pytest.approx(400 * log(3) / log(10), rel=1e-3)
    cycle = elo_ratings(win_matrix([0, 1, 2], wins((0, 1, 1), (1, 2, 1), (2, 0, 1))))
    assert cycle.tolist() == [1000.0, 1000.0, 1000.0]
    ratings = elo_ratings(win_matrix([0, 1], wins((0, 1, 500))))
    assert ratings == pytest.approx(elo_ratings(win_matrix([0, 1], wins((0, 1, 1))))), "stable, and finite"


def test_scores_in_the_unit_interval() -> None:
    strengths = numpy.array([log(3) / 2, -log(3) / 2])
    assert normalized(strengths, "win_rate") == pytest.approx([0.75, 0.25])
    assert normalized(strengths, "min_max").tolist() == [1.0, 0.0]
    three = numpy.array([2.0, 0.5, 0.0])
    assert normalized(three, "min_max") == pytest.approx([1.0, 0.25, 0.0])
    middle = (1 / (1 + exp(1.5)) + 1 / (1 + exp(-0.5))) / 2
    assert normalized(three, "win_rate")[1] == pytest.approx(middle)
    assert normalized(three, "win_rate").mean() == pytest.approx(0.5)
    for how in ("min_max", "win_rate"):
        assert normalized(numpy.full(3, 7.0), how) == pytest.approx([0.5] * 3)  # type: ignore[arg-type]
