"""Reading judgements of several answers to a prompt: rankings, and comparisons of two answers.

    {"prompt": ..., "answers": ["a", "b", "c"], "ranks": [1, 2, 2]}   1 is the best, equal ranks are a tie
    {"prompt": ..., "chosen": "a", "rejected": "b"}                   "tie": true, if there, says that neither is better

Rows about the same prompt, as of several judges, are collected, and rows that are the same are all counted. A ranking
is a comparison of each two of its answers; one whose rank is null was not ranked. A tie is half a win for each answer.
Prompts and answers are text, or lists of messages with role and content.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.judged import listed, read_answer, read_pair, read_prompt
from reasoner_rl.prompts.read import Message, Place, Row, rows_of_file

ANSWERS, RANKS, CHOSEN, TIE = "answers", "ranks", "chosen", "tie"
_RANK_RULE = "must be a number of at least 1, where 1 is the best, or null if the answer was not ranked"
Comparison = tuple[str, str, bool]  # the better answer, the worse one, whether it is a tie


@dataclass(slots=True)
class ComparedAnswers:
    """A prompt, the different answers to it, and how often each was judged better than each other."""

    row: int  # where the prompt first appears, from 1
    messages: tuple[Message, ...]
    answers: list[str] = field(default_factory=list)  # in the order in which they appear
    wins: dict[tuple[int, int], float] = field(
        default_factory=dict
    )  # (i, j) -> comparisons that i won against j
    comparisons: int = 0
    ties: int = 0

    def number(self, answer: str) -> int:
        """The number of an answer, from 0; one that is new is added."""
        if answer not in self.answers:
            self.answers.append(answer)
        return self.answers.index(answer)

    def compare(self, better: str, worse: str, tie: bool) -> None:
        """Count a comparison of two different answers in."""
        one, other = self.number(better), self.number(worse)
        self.comparisons += 1
        self.ties += tie
        self.wins[one, other] = self.wins.get((one, other), 0.0) + (0.5 if tie else 1.0)
        self.wins[other, one] = self.wins.get((other, one), 0.0) + (0.5 if tie else 0.0)


@dataclass(slots=True)
class RankingsReport:
    """What became of the rows of a file."""

    rows: int = 0
    rankings: int = 0
    identical: list[int] = field(default_factory=list)  # rows that compare an answer with itself
    nothing_compared: list[int] = field(
        default_factory=list
    )  # rows of rankings with fewer than two ranked answers

    def __str__(self) -> str:
        unusual = {
            "that compare an answer with itself, which counts for nothing": self.identical,
            "with fewer than two ranked answers": self.nothing_compared,
        }
        read = f"{self.rows:,} rows read, {self.rankings:,} of them rankings"
        return "; ".join([read, *listed(unusual)])


def read_rankings(path: Path) -> tuple[list[ComparedAnswers], RankingsReport]:
    """Read a file, with its prompts in their order. Raises DataError naming file, row, column, value and rule."""
    config = JudgedDatasetConfig(path=path)
    found: dict[Any, ComparedAnswers] = {}
    report = RankingsReport()
    for number, row in rows_of_file(path):
        place = Place(path, config.label, number)
        report.rows += 1
        is_ranking = ANSWERS in row or RANKS in row
        report.rankings += is_ranking
        if not is_ranking and CHOSEN not in row:
            raise DataError(
                f"{path}, row {number}: must have the columns {ANSWERS} and {RANKS}, or {CHOSEN} and rejected; found "
                f"{', '.join(map(str, row)) or 'none'}"
            )
        if is_ranking:
            messages = read_prompt(config, place, row)
            answers, ranks = _ranking(place, row)
            comparisons = list(_comparisons(answers, ranks))
            if not comparisons:
                report.nothing_compared.append(number)
        else:
            messages, (better, worse) = read_pair(config, place, row)
            answers, comparisons = [better, worse], [(better, worse, _tie(place, row))]
        key = tuple((message["role"], message["content"]) for message in messages)
        entry = found.setdefault(key, ComparedAnswers(number, messages))
        for answer in answers:
            entry.number(answer)
        for better, worse, tie in comparisons:
            if better != worse:
                entry.compare(better, worse, tie)
        if any(better == worse for better, worse, _ in comparisons):
            report.identical.append(number)
    if not found:
        raise DataError(f"{path}: the file holds no rows")
    return list(found.values()), report


def _ranking(place: Place, row: Row) -> tuple[list[str], list[float | None]]:
    """The answers of a row and their ranks."""
    answers, ranks = place.column(row, ANSWERS), place.column(row, RANKS)
    if not isinstance(answers, list) or not answers:
        raise place.error(ANSWERS, answers, "must be a list of at least one answer")
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        raise place.error(RANKS, ranks, f"must be a list of {len(answers)} ranks, as there are answers")
    named = {f"{ANSWERS}.{number}": answer for number, answer in enumerate(answers)}
    return [read_answer(place, named, name) for name in named], [
        _rank(place, f"{RANKS}.{number}", rank) for number, rank in enumerate(ranks)
    ]


def _rank(place: Place, name: str, rank: Any) -> float | None:
    if rank is None:
        return None
    if isinstance(rank, bool) or not isinstance(rank, int | float) or not 1 <= rank <= sys.float_info.max:
        raise place.error(name, rank, _RANK_RULE)
    return rank


def _comparisons(answers: Sequence[str], ranks: Sequence[float | None]) -> Iterator[Comparison]:
    """Each two of the ranked answers, the better one first."""
    ranked = [(rank, answer) for rank, answer in zip(ranks, answers, strict=True) if rank is not None]
    for (rank, answer), (other_rank, other) in combinations(ranked, 2):
        better, worse = (answer, other) if rank <= other_rank else (other, answer)
        yield better, worse, rank == other_rank


def _tie(place: Place, row: Mapping[str, Any]) -> bool:
    value = row.get(TIE)
    if value is not None and not isinstance(value, bool):
        raise place.error(TIE, value, "must be true, false or null")
    return bool(value)
