"""Countdown: make a target from some numbers, each used exactly once, with + - * / and brackets.

    problem   "Use each of the numbers 4, 25, 2 exactly once, with +, -, *, / and brackets, to make 42. The answer is
              the expression."
    answer    {"target": 42, "numbers": [4, 25, 2]}    what reward_fns/countdown.py reads
    solution  "25 - 4 = 21\n21 * 2 = 42\nAnswer: (25 - 4) * 2"

A problem is made from a way to solve it, which combines two of what is left until one number is left, so every problem
can be solved. All results on that way are whole and none is negative. Two problems are the same if target and numbers
are, in any order. The difficulty is how many numbers there are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from reasoner_rl.datasets.generated.options import SizesWithLesson, check_bounds, option
from reasoner_rl.datasets.generated.rows import Drawn, Splits, check_levels, distinct_splits, level


@dataclass(frozen=True, slots=True)
class CountdownOptions(SizesWithLesson):
    """What is made."""

    fewest: int = option(3, "fewest numbers", at_least=2, at_most=6)
    most: int = option(4, "most numbers", at_least=2, at_most=6)
    largest: int = option(50, "largest number", at_least=1)
    smallest_target: int = option(10, "smallest target", at_least=0)
    largest_target: int = option(100, "largest target", at_least=0)


@dataclass(frozen=True, slots=True)
class _Term:
    """A number, or an expression of several."""

    value: int
    text: str

    def inner(self) -> str:
        """The text as a part of an expression."""
        return self.text if self.text.isdigit() else f"({self.text})"


def check(options: CountdownOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    check_levels(("--fewest", options.fewest), ("--most", options.most))
    check_levels(("--smallest-target", options.smallest_target), ("--largest-target", options.largest_target))


def generate(options: CountdownOptions, seed: int) -> Splits:
    """Rows of problem, answer, data_source and difficulty, with solution in sft. Raises ConfigError as `check`."""
    check(options)

    def draw(rng: random.Random, index: int) -> Drawn | None:
        count = level(index, options.fewest, options.most)
        numbers = [rng.randint(1, options.largest) for _ in range(count)]
        steps, whole = solve_at_random(rng, numbers)
        if not options.smallest_target <= whole.value <= options.largest_target:
            return None
        listed = ", ".join(map(str, numbers))
        row = {
            "problem": f"Use each of the numbers {listed} exactly once, with +, -, *, / and brackets, to make "
            f"{whole.value}. The answer is the expression.",
            "answer": {"target": whole.value, "numbers": numbers},
            "data_source": "countdown",
            "difficulty": count,
            "solution": "\n".join([*steps, f"Answer: {whole.text}"]),
        }
        return Drawn((whole.value, tuple(sorted(numbers))), row)

    return distinct_splits(options.counts, seed, draw)


def solve_at_random(rng: random.Random, numbers: list[int]) -> tuple[list[str], _Term]:
    """Combine the numbers by random operations: the steps, such as ``25 - 4 = 21``, and the whole expression."""
    terms, steps = [_Term(number, str(number)) for number in numbers], []
    while len(terms) > 1:
        left, right = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        results = {"+": left.value + right.value, "*": left.value * right.value}
        if left.value >= right.value:
            results["-"] = left.value - right.value
        if right.value and left.value % right.value == 0:
            results["/"] = left.value // right.value
        operator = rng.choice(list(results))
        steps.append(f"{left.value} {operator} {right.value} = {results[operator]}")
        terms.append(_Term(results[operator], f"{left.inner()} {operator} {right.inner()}"))
    return steps, terms[0]
