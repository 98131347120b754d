"""Rows of generated problems, drawn until there are as many distinct ones as wanted."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from reasoner_rl.errors import ConfigError

Row = dict[str, Any]  # problem, answer, and further columns; solution where it is to be learnt from
Splits = dict[str, list[Row]]  # by the name of the file: heldout, train and, with solutions, sft

MOST_REPEATS = (
    10_000  # draws in a row that give no new problem, after which the options are taken to allow no more
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One problem: its row with the worked solution, and what makes it the same problem as another."""

    key: Hashable
    row: Row


Draw = Callable[[random.Random, int], Drawn | None]  # the number of the problem within its file, from 0


def distinct_splits(counts: Mapping[str, int], seed: int, draw: Draw) -> Splits:
    """Rows for each split, in the order of ``counts``; no two rows of all splits have the same key.

    draw: returns None for a draw of no use, such as a target out of bounds. Its randomness is the generator that it is
    given. Only the split ``sft`` keeps the column ``solution``; splits without rows are left out.
    Raises ConfigError if so many distinct problems cannot be found.
    """
    rng = random.Random(seed)
    taken: set[Hashable] = set()
    splits: Splits = {}
    for name, count in counts.items():
        rows: list[Row] = []
        for index in range(count):
            drawn = _new(rng, index, draw, taken)
            if drawn is None:
                wanted = ", ".join(f"--{split} {number}" for split, number in counts.items())
                raise ConfigError(
                    f"{wanted}: {len(taken)} distinct problems were found, and {MOST_REPEATS} further draws gave no "
                    "new one; ask for fewer problems, or widen the other options"
                )
            taken.add(drawn.key)
            rows.append(
                drawn.row if name == "sft" else {k: v for k, v in drawn.row.items() if k != "solution"}
            )
        if rows:
            splits[name] = rows
    return splits


def _new(rng: random.Random, index: int, draw: Draw, taken: set[Hashable]) -> Drawn | None:
    for _ in range(MOST_REPEATS):
        drawn = draw(rng, index)
        if drawn is not None and drawn.key not in taken:
            return drawn
    return None


def level(index: int, lowest: int, highest: int) -> int:
    """The difficulty of a problem by its number: lowest to highest take turns."""
    return lowest + index % (highest - lowest + 1)


def check_levels(lowest: tuple[str, int], highest: tuple[str, int]) -> None:
    """Raise ConfigError unless the value of the first flag is at most that of the second."""
    if lowest[1] > highest[1]:
        raise ConfigError(f"{highest[0]} {highest[1]}: must be at least {lowest[0]}, which is {lowest[1]}")
