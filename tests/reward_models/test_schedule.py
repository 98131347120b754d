"""Who is compared with whom, and what score comes of it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from reasoner_rl.config.reward_model import PairwiseJudgeConfig
from reasoner_rl.reward_models.schedule import Knockout, RoundRobin, Tournament, tournament


def play(played: Tournament, strength: list[float]) -> tuple[list[list[tuple[int, int]]], list[float]]:
    """Every comparison is won with probability 0.8 by the stronger one. Returns rounds and scores."""
    rounds = []
    while pairs := played.next_round():
        rounds.append(pairs)
        played.record([0.8 if strength[one] > strength[other] else 0.2 for one, other in pairs])
    return rounds, played.scores()


def test_everyone_meets_everyone() -> None:
    rounds, scores = play(RoundRobin(4, None, random.Random(0)), [3, 1, 2, 0])
    assert rounds == [[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]]
    # Of three games each: 3, 1, 2 and 0 won.
    assert scores == pytest.approx([0.8, (0.8 + 0.4) / 3, (1.6 + 0.2) / 3, 0.2])


@pytest.mark.parametrize(("players", "opponents"), [(8, 3), (8, 7), (7, 3), (2, 1), (5, 4)])
def test_drawn_opponents(players: int, opponents: int) -> None:
    met: Counter[int] = Counter()
    seen: Counter[frozenset[int]] = Counter()
    for seed in range(20):
        [pairs] = play(RoundRobin(players, opponents, random.Random(seed)), list(range(players)))[0]
        assert len({frozenset(pair) for pair in pairs}) == len(pairs), "no two meet twice"
        counts = Counter(player for pair in pairs for player in pair)
        # In a group of odd size one sits out in each round.
        assert all(opponents - players % 2 <= counts[player] <= opponents for player in range(players))
        assert len(pairs) == opponents * (players // 2)
        met.update(counts)
        seen.update(frozenset(pair) for pair in pairs)
    assert len(seen) == players * (players - 1) // 2, "over many draws all meet"


def test_drawn_opponents_estimate_the_score_against_all() -> None:
    strength = [5.0, 1.0, 4.0, 2.0, 3.0, 0.0]
    _, whole = play(RoundRobin(6, None, random.Random(0)), strength)
    drawn = [play(RoundRobin(6, 2, random.Random(seed)), strength)[1] for seed in range(2000)]
    means = [sum(scores) / len(drawn) for scores in zip(*drawn, strict=True)]
    assert means == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize(("players", "rounds"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3)])
def test_losers_leave(players: int, rounds: int) -> None:
    for seed in range(5):
        played, scores = play(Knockout(players, random.Random(seed)), list(range(players)))
        assert len(played) == rounds
        assert sum(map(len, played)) == players - 1, "the stated cost"
        assert max(scores) == pytest.approx(scores[players - 1]), "the strongest wins"
        assert all(0 <= score <= 1 for score in scores)
    assert play(Knockout(2, random.Random(0)), [1, 0])[1] == pytest.approx([0.8, 0.2])


def test_a_group_of_one_has_nothing_to_compare() -> None:
    for played in (RoundRobin(1, None, random.Random(0)), Knockout(1, random.Random(0))):
        assert play(played, [0])[0] == []
    assert RoundRobin(1, None, random.Random(0)).scores() == [0.5]


def test_the_recipe_chooses() -> None:
    rng = random.Random(0)
    config = PairwiseJudgeConfig(path="rm", schedule="knockout")
    assert isinstance(tournament(config, 4, rng), Knockout)
    drawn = tournament(PairwiseJudgeConfig(path="rm", opponents=1), 4, rng)
    assert len(drawn.next_round()) == 2
