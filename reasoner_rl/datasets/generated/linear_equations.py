"""Linear equations in one unknown, with exact fractions as answers.

    difficulty 1   "Solve for x: x + 12 = 5"            -7
    difficulty 2   "Solve for x: 3x + 12 = 5"           -7/3
    difficulty 3   "Solve for x: 3x + 12 = -2x + 5"     -7/5, worked "5x = -7\nx = -7/5\nAnswer: -7/5"

Two equations are the same if one is the other with its sides exchanged.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

from reasoner_rl.datasets.generated.options import SizesWithLesson, check_bounds, option
from reasoner_rl.datasets.generated.rows import Drawn, Splits, check_levels, distinct_splits, level


@dataclass(frozen=True, slots=True)
class LinearEquationsOptions(SizesWithLesson):
    """What is made."""

    easiest: int = option(1, "least difficulty", at_least=1, at_most=3)
    hardest: int = option(3, "greatest difficulty", at_least=1, at_most=3)
    largest_factor: int = option(12, "largest factor of x, positive or negative", at_least=2)
    largest_number: int = option(60, "largest other number, positive or negative", at_least=1)
    whole: bool = option(False, "whole-number answers only")


def check(options: LinearEquationsOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    check_levels(("--easiest", options.easiest), ("--hardest", options.hardest))


def generate(options: LinearEquationsOptions, seed: int) -> Splits:
    """Rows of problem, answer, data_source and difficulty, with solution in sft. Raises ConfigError as `check`."""
    check(options)
    factors = [number for number in _both_signs(options.largest_factor) if number != 1]
    numbers = _both_signs(options.largest_number)

    def draw(rng: random.Random, index: int) -> Drawn | None:
        difficulty = level(index, options.easiest, options.hardest)
        a = 1 if difficulty == 1 else rng.choice(factors)
        c = 0 if difficulty < 3 else rng.choice(factors)
        b, d = rng.choice(numbers), rng.choice(numbers)
        if a == c:
            return None
        x = Fraction(d - b, a - c)
        if options.whole and x.denominator != 1:
            return None
        row = {
            "problem": f"Solve for x: {_side(a, b)} = {_side(c, d)}",
            "answer": str(x),
            "data_source": "linear_equations",
            "difficulty": difficulty,
            "solution": "\n".join([*_steps(a - c, d - b, x), f"Answer: {x}"]),
        }
        return Drawn(frozenset({(a, b), (c, d)}), row)

    return distinct_splits(options.counts, seed, draw)


def _both_signs(largest: int) -> list[int]:
    return [number for number in range(-largest, largest + 1) if number]


def _multiple(factor: int) -> str:
    """A multiple of x: ``3x``, ``x``, ``-x``."""
    return {1: "x", -1: "-x"}.get(factor, f"{factor}x")


def _side(factor: int, number: int) -> str:
    """``3x + 12``, ``-2x - 5``, or ``7`` with factor 0."""
    if factor == 0:
        return str(number)
    return f"{_multiple(factor)} {'-' if number < 0 else '+'} {abs(number)}"


def _steps(factor: int, number: int, x: Fraction) -> list[str]:
    """``5x = -7``, ``x = -7/5``; the second alone where the factor is 1."""
    steps = [f"{_multiple(factor)} = {number}", f"x = {x}"]
    return steps[factor == 1 :]
