"""From comparisons of answers to scores: what is connected, cycles, Elo ratings, and scores in [0, 1].

Answers are numbers from 0. ``wins[i, j]`` is how often i won against j, a tie being half a win for both, and is there,
possibly as 0, for both orders of each two answers that were compared. Square arrays [N, N] hold the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy
from numpy.typing import NDArray

Wins = Mapping[tuple[int, int], float]
Array = NDArray[numpy.float64]
Normalization = Literal["min_max", "win_rate"]

EQUAL = 1e-6  # log-odds that differ by less are equal, which they may miss by rounding
ELO_START, ELO_K, ELO_SCALE, ELO_PERIODS = 1000.0, 32.0, 400.0, 100
LOG_ODDS_PER_ELO_POINT = float(numpy.log(10) / ELO_SCALE)


def strong_components(count: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The sets of numbers below ``count`` that reach each other along the edges, each in order, by their first."""
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for start, end in edges:
        after[start].append(end)
        before[end].append(start)
    found: list[list[int]] = []
    placed: set[int] = set()
    for number in range(count):
        if number not in placed:
            members = _reached(number, after) & _reached(number, before)
            placed |= members
            found.append(sorted(members))
    return found


def _reached(start: int, neighbours: Sequence[Sequence[int]]) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for neighbour in neighbours[waiting.pop()]:
            if neighbour not in seen:
                seen.add(neighbour)
                waiting.append(neighbour)
    return seen


def components(count: int, wins: Wins) -> list[list[int]]:
    """The sets of answers that comparisons connect. Scores can be compared within one of them alone."""
    return strong_components(count, wins)


def majorities(wins: Wins) -> list[tuple[int, int]]:
    """Each two answers of which the first won more often than the second, in order."""
    return sorted(pair for pair, won in wins.items() if won > wins[pair[::-1]])


def cycles(count: int, wins: Wins) -> list[list[int]]:
    """The sets of answers that contradict each other: by majorities each is better than each, over others or not."""
    return [members for members in strong_components(count, majorities(wins)) if len(members) > 1]


def has_finite_scores(members: Sequence[int], wins: Wins) -> bool:
    """Whether the Bradley-Terry likelihood of connected answers has a maximum.

    It has if no part of the answers won all its comparisons with the rest: Ford, 1957, "Solution of a ranking problem
    from binary comparisons".
    """
    inside = set(members)
    won = [pair for pair, number in wins.items() if number > 0 and inside.issuperset(pair)]
    groups = strong_components(max(members) + 1, won)
    return any(group == sorted(members) for group in groups)


def win_matrix(members: Sequence[int], wins: Wins, alpha: float = 0.0) -> Array:
    """The wins [N, N] among some answers; ``alpha`` further wins in each direction for each two that were compared."""
    matrix = numpy.zeros((len(members), len(members)))
    place = {answer: index for index, answer in enumerate(members)}
    for (winner, loser), number in wins.items():
        if winner in place and loser in place:
            matrix[place[winner], place[loser]] = number + alpha
    return matrix


def elo_ratings(wins: Array) -> Array:
    """Elo ratings [N], which do not depend on the order of the comparisons (Elo, 1978, "The rating of chessplayers").

    All comparisons are one rating period: R_i += K' * sum over j of (wins_ij - n_ij / (1 + 10^((R_j - R_i) / 400))),
    with n_ij comparisons of i and j and the ratings of the period's start. The period is repeated ELO_PERIODS times
    from ELO_START, and K' is ELO_K divided by the most comparisons of one answer, so that no rating moves by more than
    ELO_K in a period. With more periods, ratings would go to those of Bradley and Terry where these are finite.
    """
    played = wins + wins.T
    k = ELO_K / max(1.0, played.sum(axis=1).max())
    ratings = numpy.full(len(wins), ELO_START)
    for _ in range(ELO_PERIODS):
        expected = played / (1 + 10 ** ((ratings[None, :] - ratings[:, None]) / ELO_SCALE))
        ratings = ratings + k * (wins - expected).sum(axis=1)
    return ratings


def normalized(log_odds: Array, how: Normalization) -> Array:
    """Scores [N] in [0, 1] from strengths [N], whose differences are the log-odds of one answer winning.

    min_max: (s - min) / (max - min), or 0.5 for all where all are equal. win_rate: the mean over the other answers of
    the probability 1 / (1 + exp(s_other - s)) of winning against them.
    """
    if how == "min_max":
        low, spread = log_odds.min(), log_odds.max() - log_odds.min()
        return numpy.full(len(log_odds), 0.5) if spread < EQUAL else (log_odds - low) / spread
    probabilities = 1 / (1 + numpy.exp(log_odds[None, :] - log_odds[:, None]))
    scores: Array = (probabilities.sum(axis=1) - 0.5) / (len(log_odds) - 1)  # not against itself
    return scores
