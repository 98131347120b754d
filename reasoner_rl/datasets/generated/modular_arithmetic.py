"""Arithmetic modulo a number, with the usual precedence.

    problem   "What is 17 * 23 + 45 - 8 modulo 7?"
    answer    "1", in 0 to modulus - 1, also where the expression is negative
    solution  "17 * 23 = 391\n391 + 45 = 436\n436 - 8 = 428\n428 = 61 * 7 + 1\nAnswer: 1"

The difficulty is the number of operations. Two problems are the same if their text is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from reasoner_rl.datasets.generated.options import SizesWithLesson, check_bounds, option
from reasoner_rl.datasets.generated.rows import Drawn, Splits, check_levels, distinct_splits, level


@dataclass(frozen=True, slots=True)
class ModularArithmeticOptions(SizesWithLesson):
    """What is made."""

    fewest: int = option(1, "fewest operations", at_least=1)
    most: int = option(3, "most operations", at_least=1, at_most=20)
    largest: int = option(50, "largest number in the expression", at_least=2)
    smallest_modulus: int = option(2, "smallest modulus", at_least=2)
    largest_modulus: int = option(20, "largest modulus", at_least=2)


def check(options: ModularArithmeticOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    check_levels(("--fewest", options.fewest), ("--most", options.most))
    check_levels(
        ("--smallest-modulus", options.smallest_modulus), ("--largest-modulus", options.largest_modulus)
    )


def generate(options: ModularArithmeticOptions, seed: int) -> Splits:
    """Rows of problem, answer, data_source and difficulty, with solution in sft. Raises ConfigError as `check`."""
    check(options)

    def draw(rng: random.Random, index: int) -> Drawn:
        operations = level(index, options.fewest, options.most)
        numbers = [rng.randint(1, options.largest) for _ in range(operations + 1)]
        operators = rng.choices("+-*", k=operations)
        modulus = rng.randint(options.smallest_modulus, options.largest_modulus)
        steps, value = work(numbers, operators)
        quotient, answer = divmod(value, modulus)
        expression = f"{numbers[0]}" + "".join(
            f" {operator} {number}" for operator, number in zip(operators, numbers[1:], strict=True)
        )
        problem = f"What is {expression} modulo {modulus}?"
        row = {
            "problem": problem,
            "answer": str(answer),
            "data_source": "modular_arithmetic",
            "difficulty": operations,
            "solution": "\n".join(
                [*steps, f"{value} = {quotient} * {modulus} + {answer}", f"Answer: {answer}"]
            ),
        }
        return Drawn(problem, row)

    return distinct_splits(options.counts, seed, draw)


def work(numbers: list[int], operators: list[str]) -> tuple[list[str], int]:
    """The steps, products first and each from the left, such as ``17 * 23 = 391``, and the value."""
    steps: list[str] = []

    def step(left: int, operator: str, right: int) -> int:
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
        steps.append(f"{left} {operator} {right} = {value}")
        return value

    products, signs = [numbers[0]], list[str]()
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "*":
            products[-1] = step(products[-1], operator, number)
        else:
            products.append(number)
            signs.append(operator)
    value = products[0]
    for operator, number in zip(signs, products[1:], strict=True):
        value = step(value, operator, number)
    return steps, value
