"""Which answers to a prompt a pairwise reward model compares, and the score that an answer gets from that. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

from reasoner_rl.config.reward_model import PairwiseJudgeConfig

Pair = tuple[int, int]  # places of two answers in their group


class Tournament(Protocol):
    """Comparisons within one group, in rounds: those of a round depend on the results of the rounds before."""

    def next_round(self) -> list[Pair]:
        """The comparisons to make now; none: it is over."""
        ...

    def record(self, results: Sequence[float]) -> None:
        """Take the probabilities that the first of each pair wins."""
        ...

    def scores(self) -> list[float]:
        """A score in [0, 1] for each answer."""
        ...


class RoundRobin:
    """Everyone meets everyone, or ``opponents`` others that are drawn at random.

    A score is the mean probability to win. With drawn opponents it is an estimate of that, without bias: all sets of
    opponents are equally likely. In a group of odd size one answer sits out in each of the ``opponents`` rounds.
    """

    def __init__(self, players: int, opponents: int | None, rng: random.Random) -> None:
        self._players = players
        self._pairs = _all_pairs(players) if opponents is None else _drawn_pairs(players, opponents, rng)
        self._results: list[float] = []

    def next_round(self) -> list[Pair]:
        """See `Tournament`."""
        return [] if self._results else self._pairs

    def record(self, results: Sequence[float]) -> None:
        """See `Tournament`."""
        self._results = list(results)

    def scores(self) -> list[float]:
        """See `Tournament`. An answer that met nobody has 0.5."""
        won, met = [0.0] * self._players, [0] * self._players
        for (one, other), result in zip(self._pairs, self._results, strict=True):
            for player, share in ((one, result), (other, 1 - result)):
                won[player] += share
                met[player] += 1
        return [share / count if count else 0.5 for share, count in zip(won, met, strict=True)]


class Knockout:
    """Losers leave. A score is the sum of an answer's probabilities to win over the number of rounds.

    Answers are drawn into the first round at random; in a round of odd size the last one passes without a comparison,
    which counts as half a win. Of two that are equally likely to win, the first stays.
    """

    def __init__(self, players: int, rng: random.Random) -> None:
        self._left = rng.sample(range(players), players)
        self._rounds = max(1, (players - 1).bit_length())
        self._won = [0.0] * players

    def next_round(self) -> list[Pair]:
        """See `Tournament`."""
        return list(zip(self._left[::2], self._left[1::2], strict=False))

    def record(self, results: Sequence[float]) -> None:
        """See `Tournament`."""
        through = []
        for (one, other), result in zip(self.next_round(), results, strict=True):
            self._won[one] += result
            self._won[other] += 1 - result
            through.append(one if result >= 0.5 else other)
        passing = self._left[2 * len(through) :]
        for player in passing:
            self._won[player] += 0.5
        self._left = through + passing

    def scores(self) -> list[float]:
        """See `Tournament`."""
        return [won / self._rounds for won in self._won]


def tournament(config: PairwiseJudgeConfig, players: int, rng: random.Random) -> Tournament:
    """The comparisons that the recipe asks for in a group of ``players`` answers."""
    if config.schedule == "knockout":
        return Knockout(players, rng)
    return RoundRobin(players, config.opponents, rng)


def _all_pairs(players: int) -> list[Pair]:
    return list(combinations(range(players), 2))


def _drawn_pairs(players: int, opponents: int, rng: random.Random) -> list[Pair]:
    """The first rounds of a round robin by the circle method, in which nobody meets another twice."""
    circle = rng.sample(range(players), players)
    if players % 2:
        circle.append(-1)  # whoever meets this sits out
    pairs = list[Pair]()
    for _ in range(min(opponents, len(circle) - 1)):
        half = len(circle) // 2
        pairs += zip(circle[:half], reversed(circle[half:]), strict=True)
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return [(one, other) for one, other in pairs if -1 not in (one, other)]
