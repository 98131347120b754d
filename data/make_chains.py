#!/usr/bin/env python3
"""Generate the quickstart's problems: chains of + and - modulo 10.

    problem   "Compute 3+5-7 ?"
    worked    "3+5=8, 8-7=1. Answer: 1"      one step at a time
    direct    "Answer: 1"                    a guess, unless one can do it in the head

The warm start teaches the steps first and then mixes in direct answers, so that the model it leaves can reason but
does so only some of the time: what reinforcement learning then has to find out is that reasoning pays.

Writes sft.jsonl (problem, solution, answer; in the order of the lesson), train.jsonl and heldout.jsonl (problem,
answer), which share no problem.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

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


def row(rng: random.Random, problem: Problem, direct: bool | None = None) -> dict[str, str]:
    """A line of the files; ``direct`` chooses the kind of solution, None leaves it out."""
    operators = signs(rng, problem)
    text = f"{problem[0]}" + "".join(
        f"{op}{abs(term)}" for op, term in zip(operators, problem[1:], strict=True)
    )
    value, steps = problem[0], []
    for operator, term in zip(operators, problem[1:], strict=True):
        steps.append(f"{value}{operator}{abs(term)}={(value + term) % 10}")
        value = (value + term) % 10
    fields = {"problem": f"Compute {text} ?\n", "answer": str(value)}
    if direct is not None:
        fields["solution"] = f"Answer: {value}" if direct else f"{', '.join(steps)}. Answer: {value}"
    return fields


def lesson(
    rng: random.Random, examples: int, worked_share: float, direct_rate: float, terms: range
) -> Iterator[dict[str, str]]:
    """Worked solutions for the first ``worked_share`` of the examples, then ``direct_rate`` of them direct."""
    for index in range(examples):
        direct = index >= worked_share * examples and rng.random() < direct_rate
        yield row(rng, draw_problem(rng, rng.choice(terms)), direct)


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write JSON lines to a temporary file, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.writelines(json.dumps(fields) + "\n" for fields in rows)
    partial.replace(path)


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
    parser.add_argument("--sft", type=int, default=25600, help="examples for the warm start (default 25600)")
    parser.add_argument("--train", type=int, default=4096, help="training problems (default 4096)")
    parser.add_argument("--heldout", type=int, default=300, help="held-out problems (default 300)")
    parser.add_argument(
        "--worked-share", type=float, default=0.8, help="first part of the lesson, all worked"
    )
    parser.add_argument(
        "--direct-rate", type=float, default=0.5, help="direct answers in the rest of the lesson"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    taken: set[Problem] = set()
    heldout = draw_distinct(rng, options.terms, options.heldout, taken)
    train = draw_distinct(rng, options.terms, options.train, taken)
    write(options.out / "heldout.jsonl", (row(rng, problem) for problem in heldout))
    write(options.out / "train.jsonl", (row(rng, problem) for problem in train))
    terms = range(2, options.terms + 1)
    write(
        options.out / "sft.jsonl",
        lesson(rng, options.sft, options.worked_share, options.direct_rate, terms),
    )
    print(
        f"{options.out}: {options.sft} worked examples, {len(train)} training and {len(heldout)} held-out problems"
    )


if __name__ == "__main__":
    main()
