#!/usr/bin/env python3
"""Generate the quickstart's problems: chains of + and - modulo 10.

    problem   "Compute 3+5-7 ?"
    worked    "3+5=8, 8-7=1. Answer: 1"                one step at a time
    checked   "3+5=8, 3+5=8, 8-7=1, 8-7=1. Answer: 1"  every step written twice: right, but long-winded
    direct    "Answer: 1"                              a guess, unless one can do it in the head

The warm start teaches single additions, then worked chains, and at last a short mixture of the three styles, which
leaves a model that mostly guesses and that confuses the other two. What reinforcement learning then has to find out is
that careful reasoning pays, and that guessing and long-windedness do not.

Writes sft.jsonl (problem, solution, answer; in the order of the lesson), train.jsonl and heldout.jsonl (problem,
answer). No problem of heldout.jsonl is in the other two.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from reasoner_rl.observability.summary import write_jsonl

Style = Literal["worked", "checked", "direct"]
MIXTURE: dict[Style, float] = {"worked": 0.31, "checked": 0.04, "direct": 0.65}
Problem = tuple[int, ...]  # signed terms, the first one positive


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


def row(rng: random.Random, problem: Problem, style: Style | None = None) -> dict[str, str]:
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
    fields = {"problem": f"Compute {text} ?\n", "answer": str(value)}
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
) -> Iterator[dict[str, str]]:
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


def broken_rule(options: argparse.Namespace) -> str | None:
    """What is wrong with the options, if anything: flag, value and rule."""
    for flag, smallest in (("terms", 2), ("sft", 1), ("train", 1), ("heldout", 1)):
        value = getattr(options, flag)
        if value < smallest:
            return f"--{flag} {value}: must be at least {smallest}"
    for flag in ("facts_share", "mixed_share"):
        value = getattr(options, flag)
        if not 0 <= value <= 1:
            return f"--{flag.replace('_', '-')} {value}: must be between 0 and 1"
    if options.facts_share + options.mixed_share > 1:
        shares = f"--facts-share {options.facts_share} and --mixed-share {options.mixed_share}"
        return f"{shares}: must not exceed 1 together"
    wanted = options.train + options.heldout
    possible = 10 * 19 ** (options.terms - 1)  # a first digit, then -9 to 9
    if wanted > possible:
        return (
            f"--train {options.train} and --heldout {options.heldout}: {wanted} distinct problems wanted, "
            f"but --terms {options.terms} allows {possible}"
        )
    return None


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="decides every problem (default 0)")
    parser.add_argument(
        "--terms", type=int, default=5, help="terms of training and held-out problems (default 5)"
    )
    parser.add_argument("--sft", type=int, default=24000, help="examples for the warm start (default 24000)")
    parser.add_argument("--train", type=int, default=4096, help="training problems (default 4096)")
    parser.add_argument("--heldout", type=int, default=300, help="held-out problems (default 300)")
    parser.add_argument("--facts-share", type=float, default=0.35, help="first part of the lesson: two terms")
    parser.add_argument("--mixed-share", type=float, default=0.2, help="last part of the lesson, all styles")
    options = parser.parse_args(arguments)
    if complaint := broken_rule(options):
        parser.error(complaint)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    taken: set[Problem] = set()
    heldout = draw_distinct(rng, options.terms, options.heldout, taken)
    train = draw_distinct(rng, options.terms, options.train, taken)
    write_jsonl(options.out / "heldout.jsonl", (row(rng, problem) for problem in heldout))
    write_jsonl(options.out / "train.jsonl", (row(rng, problem) for problem in train))
    write_jsonl(
        options.out / "sft.jsonl",
        lesson(rng, options.sft, options.terms, options.facts_share, options.mixed_share, frozenset(heldout)),
    )
    print(
        f"{options.out}: {options.sft} worked examples, {len(train)} training and {len(heldout)} held-out problems"
    )


if __name__ == "__main__":
    main()
