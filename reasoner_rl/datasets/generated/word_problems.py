"""Word problems from templates, with one to three operations on whole numbers.

    problem   "Mia has 4 boxes with 12 pencils each, and 7 more pencils on a table. How many pencils does Mia have?"
    answer    "55"
    solution  "4 * 12 = 48\n48 + 7 = 55\nAnswer: 55"

Names, objects and numbers are drawn; every number of a problem and every result on the way is whole and above 0. The
difficulty is the number of operations. Two problems are the same if template and numbers are, whatever their names and
objects: so a held-out problem is not in the other files under other names.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reasoner_rl.datasets.generated.options import SizesWithLesson, check_bounds, option
from reasoner_rl.datasets.generated.rows import Drawn, Splits, check_levels, distinct_splits, level


@dataclass(frozen=True, slots=True)
class Template:
    """A story with slots: {name}, {other}, {things}, and the numbers {a} to {d}.

    steps: ``left operator right`` with numbers by their letter and results by r1, r2; the last result is the answer.
    """

    name: str
    steps: tuple[str, ...]
    text: str

    @property
    def letters(self) -> list[str]:
        """The numbers that are drawn."""
        return [letter for letter in "abcd" if f"{{{letter}}}" in self.text]


@dataclass(frozen=True, slots=True)
class WordProblemsOptions(SizesWithLesson):
    """What is made."""

    fewest: int = option(1, "fewest operations", at_least=1, at_most=3)
    most: int = option(3, "most operations", at_least=1, at_most=3)
    largest: int = option(50, "largest number in a problem", at_least=2)


NAMES = ("Mia", "Omar", "Lena", "Chen", "Ada", "Tom", "Priya", "Luis", "Nora", "Kofi", "Yuki", "Eva")
THINGS = ("pencils", "marbles", "apples", "stickers", "books", "shells", "cards", "stamps", "beads", "coins")
TEMPLATES = (
    Template(
        "gets_more",
        ("a + b",),
        "{name} has {a} {things}. {other} gives {name} {b} more {things}. How many {things} does {name} have now?",
    ),
    Template(
        "gives_away",
        ("a - b",),
        "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does {name} have left?",
    ),
    Template(
        "boxes",
        ("a * b",),
        "{name} has {a} boxes with {b} {things} each. How many {things} does {name} have in all?",
    ),
    Template(
        "shares",
        ("a / b",),
        "{name} divides {a} {things} equally among {b} children. How many {things} does each child get?",
    ),
    Template(
        "boxes_and_more",
        ("a * b", "r1 + c"),
        "{name} has {a} boxes with {b} {things} each, and {c} more {things} on a table. "
        "How many {things} does {name} have?",
    ),
    Template(
        "boxes_and_sale",
        ("a * b", "r1 - c"),
        "{name} filled {a} boxes with {b} {things} each, and then sold {c} of the {things}. "
        "How many {things} are left?",
    ),
    Template(
        "finds_and_loses",
        ("a + b", "r1 - c"),
        "{name} had {a} {things}, found {b} more, and then lost {c}. How many {things} does {name} have now?",
    ),
    Template(
        "pooled_and_shared",
        ("a + b", "r1 / c"),
        "{name} has {a} {things} and {other} has {b}. They put them together and divide them equally among {c} "
        "children. How many {things} does each child get?",
    ),
    Template(
        "two_kinds_of_boxes",
        ("a * b", "c * d", "r1 + r2"),
        "{name} packed {a} small boxes with {b} {things} each and {c} large boxes with {d} {things} each. "
        "How many {things} did {name} pack?",
    ),
    Template(
        "times_as_many",
        ("a * b", "a + r1", "r2 - c"),
        "{name} has {a} {things}. {other} has {b} times as many. Together they give away {c} of their {things}. "
        "How many {things} do they have left?",
    ),
    Template(
        "sold_and_packed",
        ("a - b", "r1 + c", "r2 / d"),
        "A shop had {a} {things}, sold {b} of them and received {c} new ones. It packs all that it has now into boxes "
        "of {d}. How many boxes does it fill?",
    ),
    Template(
        "who_sorts_more",
        ("a * b", "c * d", "r1 - r2"),
        "{name} sorts {a} {things} an hour and works for {b} hours. {other} sorts {c} {things} an hour and works for "
        "{d} hours. How many more {things} does {name} sort than {other}?",
    ),
)
_RESULTS: Mapping[str, Callable[[int, int], int | None]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: None if left % right else left // right,
}


def check(options: WordProblemsOptions) -> None:
    """Raise ConfigError naming flag, value and rule if the options cannot be met."""
    check_bounds(options)
    check_levels(("--fewest", options.fewest), ("--most", options.most))


def generate(options: WordProblemsOptions, seed: int) -> Splits:
    """Rows of problem, answer, data_source, difficulty and template, with solution in sft. Raises ConfigError."""
    check(options)
    of_length = {count: [t for t in TEMPLATES if len(t.steps) == count] for count in (1, 2, 3)}

    def draw(rng: random.Random, index: int) -> Drawn | None:
        operations = level(index, options.fewest, options.most)
        template = rng.choice(of_length[operations])
        numbers = {letter: rng.randint(2, options.largest) for letter in template.letters}
        worked = work(template, numbers)
        if worked is None:
            return None
        steps, value = worked
        name, other = rng.sample(NAMES, 2)
        row = {
            "problem": template.text.format(name=name, other=other, things=rng.choice(THINGS), **numbers),
            "answer": str(value),
            "data_source": "word_problems",
            "difficulty": operations,
            "template": template.name,
            "solution": "\n".join([*steps, f"Answer: {value}"]),
        }
        return Drawn((template.name, tuple(numbers.values())), row)

    return distinct_splits(options.counts, seed, draw)


def work(template: Template, numbers: Mapping[str, int]) -> tuple[list[str], int] | None:
    """The steps with their numbers, such as ``4 * 12 = 48``, and the answer; None unless all are whole and above 0."""
    known, lines, result = dict(numbers), [], 0
    for place, step in enumerate(template.steps, start=1):
        left, operator, right = step.split()
        found = _RESULTS[operator](known[left], known[right])
        if found is None or found <= 0:
            return None
        result = known[f"r{place}"] = found
        lines.append(f"{known[left]} {operator} {known[right]} = {result}")
    return lines, result
