"""The quickstart's problems: chains of + and - modulo 10.

    problem   "Compute 3+5-7 ?"
    worked    "3+5=8, 8-7=1. Answer: 1"                one step at a time
    checked   "3+5=8, 3+5=8, 8-7=1, 8-7=1. Answer: 1"  every step written twice: right, but long-winded
    direct    "Answer: 1"                              a guess, unless one can do it in the head

The warm start teaches single additions, then worked chains, and at last a short mixture of the three styles, which
leaves a model that mostly guesses and that confuses the other two. What reinforcement learning then has to find out is
that careful reasoning pays, and that guessing and long-windedness do not.

There are three files: sft (problem, solution, answer; in the order of the lesson), train and heldout (problem, answer).
No problem of heldout is in the other two.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from reasoner_rl.datasets.generated.options import check_bounds, option
from reasoner_rl.datasets.generated.rows import Row, Splits
from reasoner_rl.errors import ConfigError

Style = Literal["worked", "checked", "direct"]
MIXTURE: dict[Style, float] = {"worked": 0.31, "checked": 0.04, "direct": 0.65}
Problem = tuple[int, ...]  # signed terms, the first one positive


@dataclass(frozen=True, slots=True)
class ChainsOptions:
    """What is made."""

    terms: int = option(5, "terms of training and held-out problems", at_least=2)
    sft: int = option(24000, "examples for the warm start", at_least=1)
    train: int = option(4096, "training problems", at_least=1)
    heldout: int = option(300, "held-out problems", at_least=1)
    facts_share: float = option(0.35, "first part of the lesson: two terms", at_least=0, at_most=1)
    mixed_share: float = option(0.2, "last part of the lesson, all styles", at_least=0, at_most=1)


def draw_problem(rng: random.Random, terms: int) -> Problem:
    """Digits with random signs."""
    return (rng.randint(0, 9), *(rng.choice((-1, 1)) * rng.randint(0, 9) for _ in range(terms - 1)))


def draw_distinct(rng: random.Random, terms: int, count: int, taken: set[Problem]) -> list[Problem]:
    """Draw problems that are not in ``taken``, and add them to it."""
    problems: list[Problem] = []
    while len(problems) < count:
        problem = draw_problem(rng, terms)
        if problem not in taken:
            taken.add(problem)
            problems.append(problem)
    return problems


def signs(rng: random.Random, problem: Problem) -> list[str]:
    """The operator before each term after the first; a zero may have either."""
    return [("-" if term < 0 else "+") if term else rng.choice("+-") for term in problem[1:]]


def row(rng: random.Random, problem: Problem, style: Style | None = None) -> Row:
    """A line of the files; ``style`` is that of the solution, None leaves it out."""
    operators = signs(rng, problem)
    text = f"{problem[0]}" + "".join(
        f"{operator}{abs(term)}" for operator, term in zip(operators, problem[1:], strict=True)
    )
    value, steps = problem[0], []
    for operator, term in zip(operators, problem[1:], strict=True):
        step = f"{value}{operator}{abs(term)}={(value + term) % 10}"
        steps += [step, step] if style == "checked" else [step]
        value = (value + term) % 10
    fields: Row = {"problem": f"Compute {text} ?\n", "answer": str(value)}
    if style is not None:
        working = "" if style == "direct" else f"{', '.join(steps)}. "
        fields["solution"] = f"{working}Answer: {value}"
    return fields


def lesson(
    rng: random.Random,
    examples: int,
    longest: int,
    facts_share: float,
    mixed_share: float,
    heldout: Collection[Problem],
) -> Iterator[Row]:
    """Three parts: two terms only; chains of any length; chains in a mixture of styles. None is of ``heldout``."""
    for index in range(examples):
        part = index / examples
        terms = 2 if part < facts_share else rng.randint(2, longest)
        mixed = part >= 1 - mixed_share
        style: Style = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0] if mixed else "worked"
        problem = draw_problem(rng, terms)
        while problem in heldout:
            problem = draw_problem(rng, terms)
        yield row(rng, problem, style)


def check(options: ChainsOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    if options.facts_share + options.mixed_share > 1:
        shares = f"--facts-share {options.facts_share} and --mixed-share {options.mixed_share}"
        raise ConfigError(f"{shares}: must not exceed 1 together")
    wanted = options.train + options.heldout
    possible = 10 * 19 ** (options.terms - 1)  # a first digit, then -9 to 9
    if wanted > possible:
        raise ConfigError(
            f"--train {options.train} and --heldout {options.heldout}: {wanted} distinct problems wanted, "
            f"but --terms {options.terms} allows {possible}"
        )


def generate(options: ChainsOptions, seed: int) -> Splits:
    """The three files' rows. Raises ConfigError as `check`."""
    check(options)
    rng = random.Random(seed)
    taken: set[Problem] = set()
    heldout = draw_distinct(rng, options.terms, options.heldout, taken)
    train = draw_distinct(rng, options.terms, options.train, taken)
    shares = options.facts_share, options.mixed_share
    return {
        "heldout": [row(rng, problem) for problem in heldout],
        "train": [row(rng, problem) for problem in train],
        "sft": list(lesson(rng, options.sft, options.terms, *shares, frozenset(heldout))),
    }
