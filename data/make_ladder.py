#!/usr/bin/env python3
"""Generate the ladder: chains of +, - and * modulo 10, computed from the left, of 3 to 12 terms.

    problem   "Compute 3+5*7-9 ?"
    worked    "3+5=8, 8*7=6, 6-9=7. Answer: 7"                         one step at a time
    halting   "3+5=8......., 8*7=6......., 6-9=7........ Answer: 7"    with a pause after each step: right, but long
    direct    "Answer: 7"                                              a guess, unless one can do it in the head

The number of terms is the rung of the ladder. Every step is another chance of a slip, so accuracy falls from rung to
rung. With one token a character the worked solutions of 12 terms have 81 tokens and the halting ones 158; those of 7
terms have 46 and 88, those of 8 terms 53 and 102. A response limit of 96 leaves room for every worked solution, and
cuts halting ones off from 8 terms on. Factors are 3, 7 and 9, which have inverses modulo 10, and 0 is never added: all
ten answers are equally likely on every rung, and a guess is right one time in ten.

The warm start has three parts: single steps; worked chains, the longer the rarer; and chains of any length in a mixture
of the three styles. The model can then work short chains, often slips in long ones, and mostly guesses. Reinforcement
learning has two things to teach: to work, which takes a few steps of training, and not to slip in long chains, which
takes many.

Writes sft.jsonl (problem, solution, answer, terms; in the order of the lesson), train.jsonl and heldout.jsonl (problem,
answer, terms; as many of each number of terms), and report.json. No problem of heldout.jsonl is in the other two.
Reward functions and records get the number of terms as extra_info["terms"].
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from reasoner_rl.observability.summary import write_json, write_jsonl

Style = Literal["worked", "halting", "direct"]
MIXTURE: dict[Style, float] = {"worked": 0.30, "halting": 0.25, "direct": 0.45}
PAUSE = 7 * "."  # as many tokens as a step and its comma
OPERANDS = {"+": "123456789", "-": "123456789", "*": "379"}
STEPS = sum(map(len, OPERANDS.values()))  # an operator and its operand
Row = dict[str, str | int]


def draw_chain(rng: random.Random, terms: int) -> str:
    """A digit, then ``terms - 1`` operators with their operands, such as ``3+5*7``."""
    operators = rng.choices(list(OPERANDS), k=terms - 1)
    return rng.choice("0123456789") + "".join(
        operator + rng.choice(OPERANDS[operator]) for operator in operators
    )


def work(chain: str) -> tuple[list[str], int]:
    """The steps from the left, such as ``["3+5=8", "8*7=6"]``, and the last one's value in 0 to 9."""
    value, steps = int(chain[0]), []
    for operator, operand in zip(chain[1::2], map(int, chain[2::2]), strict=True):
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator] % 10
        steps.append(f"{value}{operator}{operand}={result}")
        value = result
    return steps, value


def row(chain: str, style: Style | None = None) -> Row:
    """A line of the files; ``style`` is that of the solution, None leaves it out."""
    steps, value = work(chain)
    fields: Row = {"problem": f"Compute {chain} ?\n", "answer": str(value), "terms": len(steps) + 1}
    if style is not None:
        written = {"worked": steps, "halting": [f"{step}{PAUSE}" for step in steps], "direct": []}[style]
        fields["solution"] = f"{', '.join(written)}. Answer: {value}" if written else f"Answer: {value}"
    return fields


def draw_rungs(rng: random.Random, shortest: int, longest: int, count: int, taken: set[str]) -> Iterator[str]:
    """``count`` chains that are not in ``taken``, to which they are added; their lengths take turns."""
    for index in range(count):
        terms = shortest + index % (longest - shortest + 1)
        chain = draw_chain(rng, terms)
        while chain in taken:
            chain = draw_chain(rng, terms)
        taken.add(chain)
        yield chain


def lesson(rng: random.Random, options: argparse.Namespace, heldout: Collection[str]) -> Iterator[Row]:
    """Worked problems of two terms, worked chains of 2 terms and more, chains in all styles. None is of ``heldout``."""
    lengths = range(2, options.longest + 1)
    rarer = [options.rarer**terms for terms in lengths]
    mixture_from = options.facts_share + options.worked_share
    for index in range(options.sft):
        style: Style = "worked"
        if index < options.facts_share * options.sft:
            terms = 2
        elif index < mixture_from * options.sft:
            [terms] = rng.choices(lengths, rarer)
        else:
            terms = rng.choice(lengths)
            [style] = rng.choices(list(MIXTURE), list(MIXTURE.values()))
        chain = draw_chain(rng, terms)
        while chain in heldout:
            chain = draw_chain(rng, terms)
        yield row(chain, style)


def report(options: argparse.Namespace, files: dict[str, list[Row]]) -> dict[str, object]:
    """The settings, and for every file the rows and how many there are of each number of terms."""
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    counts = {
        name: {
            "rows": len(rows),
            "by_terms": dict(sorted(Counter(r["terms"] for r in rows).items())),
        }
        for name, rows in files.items()
    }
    return {"settings": settings, "files": counts}


def broken_rule(options: argparse.Namespace) -> str | None:
    """What is wrong with the options, if anything: flag, value and rule."""
    for flag, smallest in (("shortest", 3), ("sft", 1), ("train", 1), ("heldout", 1)):
        value = getattr(options, flag)
        if value < smallest:
            return f"--{flag} {value}: must be at least {smallest}"
    if options.longest < options.shortest:
        return f"--longest {options.longest}: must be at least --shortest, which is {options.shortest}"
    for flag, share in (("facts-share", options.facts_share), ("worked-share", options.worked_share)):
        if not 0 <= share <= 1:
            return f"--{flag} {share}: must be between 0 and 1"
    if options.facts_share + options.worked_share > 1:
        return f"--facts-share {options.facts_share} and --worked-share {options.worked_share}: together at most 1"
    if not 0 < options.rarer <= 1:
        return f"--rarer {options.rarer}: must be above 0 and at most 1"
    rungs = options.longest - options.shortest + 1
    wanted = sum(-(-count // rungs) for count in (options.train, options.heldout))  # of the shortest chains
    possible = 10 * STEPS ** (options.shortest - 1)
    if wanted > possible // 2:  # more would take long to find, and leave little for the lesson
        return (
            f"--train {options.train} and --heldout {options.heldout}: {wanted} chains of {options.shortest} terms "
            f"wanted; at most half of the {possible} that there are"
        )
    return None


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="decides every problem (default 0)")
    parser.add_argument("--shortest", type=int, default=3, help="terms of the lowest rung (default 3)")
    parser.add_argument("--longest", type=int, default=12, help="terms of the highest rung (default 12)")
    parser.add_argument("--sft", type=int, default=24000, help="examples for the warm start (default 24000)")
    parser.add_argument("--train", type=int, default=4000, help="training problems (default 4000)")
    parser.add_argument("--heldout", type=int, default=400, help="held-out problems (default 400)")
    parser.add_argument(
        "--facts-share", type=float, default=0.2, help="first part of the lesson: two terms (default 0.2)"
    )
    parser.add_argument(
        "--worked-share", type=float, default=0.55, help="second part: worked chains alone (default 0.55)"
    )
    parser.add_argument(
        "--rarer",
        type=float,
        default=0.75,
        help="in the second part, chains of one more term are this many times as frequent (default 0.75)",
    )
    options = parser.parse_args(arguments)
    if complaint := broken_rule(options):
        parser.error(complaint)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    taken: set[str] = set()
    heldout = list(draw_rungs(rng, options.shortest, options.longest, options.heldout, taken))
    train = list(draw_rungs(rng, options.shortest, options.longest, options.train, taken))
    files = {
        "heldout": [row(chain) for chain in heldout],
        "train": [row(chain) for chain in train],
        "sft": list(lesson(rng, options, frozenset(heldout))),
    }
    for name, rows in files.items():
        write_jsonl(options.out / f"{name}.jsonl", rows)
    write_json(options.out / "report.json", report(options, files))
    print(
        f"{options.out}: {options.sft} worked examples, {len(train)} training and {len(heldout)} held-out problems"
    )


if __name__ == "__main__":
    main()
