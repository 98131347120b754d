"""The ladder: chains of +, - and * modulo 10, computed from the left, of 3 to 12 terms.

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

There are three files: sft (problem, solution, answer, terms; in the order of the lesson), train and heldout (problem,
answer, terms; as many of each number of terms). No problem of heldout is in the other two. Reward functions and records
get the number of terms as extra_info["terms"].
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from reasoner_rl.datasets.generated.options import check_bounds, option
from reasoner_rl.datasets.generated.rows import Row, Splits
from reasoner_rl.errors import ConfigError

Style = Literal["worked", "halting", "direct"]
MIXTURE: dict[Style, float] = {"worked": 0.30, "halting": 0.25, "direct": 0.45}
PAUSE = 7 * "."  # as many tokens as a step and its comma
OPERANDS = {"+": "123456789", "-": "123456789", "*": "379"}
STEPS = sum(map(len, OPERANDS.values()))  # an operator and its operand


@dataclass(frozen=True, slots=True)
class LadderOptions:
    """What is made."""

    shortest: int = option(3, "terms of the lowest rung", at_least=3)
    longest: int = option(12, "terms of the highest rung")
    sft: int = option(24000, "examples for the warm start", at_least=1)
    train: int = option(4000, "training problems", at_least=1)
    heldout: int = option(400, "held-out problems", at_least=1)
    facts_share: float = option(0.2, "first part of the lesson: two terms", at_least=0, at_most=1)
    worked_share: float = option(0.55, "second part: worked chains alone", at_least=0, at_most=1)
    rarer: float = option(0.75, "in the second part, chains of one more term are this many times as frequent")


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


def lesson(rng: random.Random, options: LadderOptions, heldout: Collection[str]) -> Iterator[Row]:
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


def report(options: LadderOptions, seed: int, files: Splits) -> dict[str, object]:
    """The settings, and for every file the rows and how many there are of each number of terms."""
    settings = {"seed": seed, **asdict(options)}
    counts = {
        name: {
            "rows": len(rows),
            "by_terms": dict(sorted(Counter(r["terms"] for r in rows).items())),
        }
        for name, rows in files.items()
    }
    return {"settings": settings, "files": counts}


def check(options: LadderOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    if options.longest < options.shortest:
        raise ConfigError(
            f"--longest {options.longest}: must be at least --shortest, which is {options.shortest}"
        )
    if options.facts_share + options.worked_share > 1:
        shares = f"--facts-share {options.facts_share} and --worked-share {options.worked_share}"
        raise ConfigError(f"{shares}: together at most 1")
    if not 0 < options.rarer <= 1:
        raise ConfigError(f"--rarer {options.rarer}: must be above 0 and at most 1")
    rungs = options.longest - options.shortest + 1
    wanted = sum(-(-count // rungs) for count in (options.train, options.heldout))  # of the shortest chains
    possible = 10 * STEPS ** (options.shortest - 1)
    if wanted > possible // 2:  # more would take long to find, and leave little for the lesson
        raise ConfigError(
            f"--train {options.train} and --heldout {options.heldout}: {wanted} chains of {options.shortest} terms "
            f"wanted; at most half of the {possible} that there are"
        )


def generate(options: LadderOptions, seed: int) -> Splits:
    """The three files' rows. Raises ConfigError as `check`."""
    check(options)
    rng = random.Random(seed)
    taken: set[str] = set()
    heldout = list(draw_rungs(rng, options.shortest, options.longest, options.heldout, taken))
    train = list(draw_rungs(rng, options.shortest, options.longest, options.train, taken))
    return {
        "heldout": [row(chain) for chain in heldout],
        "train": [row(chain) for chain in train],
        "sft": list(lesson(rng, options, frozenset(heldout))),
    }
