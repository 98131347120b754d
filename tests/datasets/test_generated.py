"""Generated problems: every answer against a second way to find it, the verifier, and what is held out."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import operator
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.datasets.generated import (
    countdown,
    linear_equations,
    modular_arithmetic,
    school_mathematics,
    word_problems,
)
from reasoner_rl.datasets.generated.generators import GENERATORS
from reasoner_rl.datasets.generated.rows import Row, Splits
from reasoner_rl.errors import ConfigError
from reasoner_rl.prompts.read import truth_text
from reward_fns import compute_score

OWN = ("countdown", "linear-equations", "modular-arithmetic", "word-problems")
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(expression: str) -> Fraction:
    """The value of an expression by Python's parser, exactly."""

    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return -of(node.operand)
        assert isinstance(node, ast.Constant)
        return Fraction(node.value)

    return of(ast.parse(expression, mode="eval").body)


@pytest.fixture(scope="module")
def sets() -> dict[str, Splits]:
    """600 training, 60 held-out and 60 worked problems of each of our own generators."""
    return {
        name: GENERATORS[name].generate(GENERATORS[name].options(train=600, heldout=60, sft=60), 5)
        for name in OWN
    }


def all_rows(splits: Splits) -> list[Row]:
    return [row for rows in splits.values() for row in rows]


@pytest.mark.parametrize("name", OWN)
def test_sizes_columns_seeds_and_what_is_held_out(sets: dict[str, Splits], name: str) -> None:
    splits = sets[name]
    assert {split: len(rows) for split, rows in splits.items()} == {"heldout": 60, "train": 600, "sft": 60}
    assert len({row["problem"] for row in all_rows(splits)}) == 720
    for split, rows in splits.items():
        assert all(("solution" in row) == (split == "sft") for row in rows)
        levels = [row["difficulty"] for row in rows]
        assert {levels.count(level) for level in set(levels)} == {len(rows) // len(set(levels))}
    generator = GENERATORS[name]
    small = generator.options(train=20, heldout=5)
    assert generator.generate(small, 5) == generator.generate(small, 5)
    assert set(generator.generate(small, 5)) == {"heldout", "train"}
    assert generator.generate(small, 5)["train"] != generator.generate(small, 6)["train"]


@pytest.mark.parametrize("name", OWN)
def test_the_verifier_accepts_every_solution_and_no_other_answer(sets: dict[str, Splits], name: str) -> None:
    for row in sets[name]["sft"]:
        truth = truth_text(row["answer"])
        assert compute_score(row["data_source"], row["solution"], truth)["acc"], row
        wrong = f"{row['solution']} + 1" if name == "countdown" else f"Answer: {Fraction(row['answer']) + 1}"
        assert not compute_score(row["data_source"], wrong, truth)["acc"], row


@pytest.mark.parametrize("name", OWN)
def test_every_line_of_a_solution_is_true(sets: dict[str, Splits], name: str) -> None:
    for row in sets[name]["sft"]:
        *steps, last = row["solution"].splitlines()
        assert last.startswith("Answer: ")
        if name != "linear-equations":
            assert all(value(left) == value(right) for left, right in (step.split(" = ") for step in steps))


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """All values that the numbers, each used once, can make: any two are combined until one is left."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        for result in (a + b, a * b, a - b, *([a / b] if b else [])):
            found |= reachable((*rest, result))
    return found


def test_countdown_can_be_solved(sets: dict[str, Splits]) -> None:
    for row in [row for row in sets["countdown"]["train"] if row["difficulty"] == 3] + sets["countdown"][
        "train"
    ][1:12:2]:
        task = row["answer"]
        assert 10 <= task["target"] <= 100
        assert task["target"] in reachable(tuple(map(Fraction, task["numbers"])))
        assert list(map(int, re.findall("[0-9]+", row["problem"]))) == [*task["numbers"], task["target"]]
        assert len(task["numbers"]) == row["difficulty"]
    for row in sets["countdown"]["sft"]:
        expression = row["solution"].rpartition("Answer: ")[2]
        assert value(expression) == row["answer"]["target"]
        assert sorted(map(int, re.findall("[0-9]+", expression))) == sorted(row["answer"]["numbers"])
    tasks = {
        (row["answer"]["target"], *sorted(row["answer"]["numbers"])) for row in all_rows(sets["countdown"])
    }
    assert len(tasks) == 720, "the same numbers in another order are the same task"


def test_linear_equations_hold(sets: dict[str, Splits]) -> None:
    for row in all_rows(sets["linear-equations"]):
        left, right = row["problem"].removeprefix("Solve for x: ").split(" = ")
        x = Fraction(row["answer"])
        for side in ("left", "right"):
            assert re.fullmatch(r"-?[0-9]*x( [+-] [0-9]+)?|-?[0-9]+", {"left": left, "right": right}[side])

        def at(side: str) -> Fraction:
            written = re.sub(r"([0-9])x", r"\1*x", side).replace("x", f"({x.numerator}/{x.denominator})")  # noqa: B023
            return value(written)

        assert at(left) == at(right), row
        assert row["difficulty"] == (
            1 if left.startswith("x ") and "x" not in right else 3 if "x" in right else 2
        )
        assert str(x) == row["answer"], "in lowest terms"
    assert any(Fraction(row["answer"]).denominator > 1 for row in sets["linear-equations"]["train"])
    whole = linear_equations.LinearEquationsOptions(train=90, heldout=9, whole=True)
    assert all(
        re.fullmatch("-?[0-9]+", row["answer"]) for row in all_rows(linear_equations.generate(whole, 0))
    )
    solution = next(row for row in sets["linear-equations"]["sft"] if row["difficulty"] == 3)
    assert solution["solution"].endswith(f"x = {solution['answer']}\nAnswer: {solution['answer']}")


def test_modular_arithmetic_against_python(sets: dict[str, Splits]) -> None:
    for row in all_rows(sets["modular-arithmetic"]):
        found = re.fullmatch(r"What is ([0-9 +*-]+) modulo ([0-9]+)\?", row["problem"])
        assert found is not None
        assert int(row["answer"]) == int(value(found[1])) % int(found[2])
        assert row["difficulty"] == len(re.findall("[+*-]", found[1]))


# Each story again, from its numbers in the order in which they stand in the text.
STORIES: dict[str, Callable[..., Fraction | int]] = {
    "gets_more": lambda had, got: had + got,
    "gives_away": lambda had, gave: had - gave,
    "boxes": lambda boxes, each: boxes * each,
    "shares": lambda things, children: Fraction(things, children),
    "boxes_and_more": lambda boxes, each, more: more + each * boxes,
    "boxes_and_sale": lambda boxes, each, sold: each * boxes - sold,
    "finds_and_loses": lambda had, found, lost: had - lost + found,
    "pooled_and_shared": lambda one, other, children: Fraction(one + other, children),
    "two_kinds_of_boxes": lambda small, in_small, large, in_large: large * in_large + small * in_small,
    "times_as_many": lambda had, times, gave: had * (1 + times) - gave,
    "sold_and_packed": lambda had, sold, came, per_box: Fraction(had + came - sold, per_box),
    "who_sorts_more": lambda rate, hours, other_rate, other_hours: rate * hours - other_rate * other_hours,
}


def test_word_problems_against_the_stories_told_again(sets: dict[str, Splits]) -> None:
    rows = all_rows(sets["word-problems"])
    assert {row["template"] for row in rows} == set(STORIES)
    for row in rows:
        numbers = list(map(int, re.findall("[0-9]+", row["problem"])))
        assert STORIES[row["template"]](*numbers) == int(row["answer"]) > 0, row
        assert "{" not in row["problem"]
    assert all(row["solution"].count(" = ") == row["difficulty"] for row in sets["word-problems"]["sft"])
    stories = {(row["template"], *re.findall("[0-9]+", row["problem"])) for row in rows}
    assert len(stories) == 720, "another name makes no other problem"


def test_a_word_problem_is_worked_step_by_step() -> None:
    template = next(t for t in word_problems.TEMPLATES if t.name == "times_as_many")
    assert word_problems.work(template, {"a": 4, "b": 3, "c": 6}) == (
        ["4 * 3 = 12", "4 + 12 = 16", "16 - 6 = 10"],
        10,
    )
    assert word_problems.work(template, {"a": 4, "b": 3, "c": 16}) is None, "nothing would be left"
    assert modular_arithmetic.work([2, 3, 4, 5], ["+", "*", "-"]) == (
        ["3 * 4 = 12", "2 + 12 = 14", "14 - 5 = 9"],
        9,
    )
    steps, whole = countdown.solve_at_random(random.Random(0), [3, 4])
    assert (len(steps), whole.value) == (1, value(whole.text))


# SHA-256 of the rows as JSON: recorded results, the quickstart's and the ladder's among them, stand on these.
RECORDED = {
    "chains": "64c63d165777046092f6f697bccafd93a09db0f017267da8bab28e40a5a08a3c",
    "ladder": "3892ea4b5bb4ca082254e2632ba10774660def3cbadf7535ace5e1f901cbf424",
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_problems_of_recorded_results_stay_what_they_are(name: str) -> None:
    generator = GENERATORS[name]
    rows = generator.generate(generator.options(train=200, heldout=100, sft=300), 3)
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == RECORDED[name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("countdown", {"train": 0}, "--train 0: must be at least 1"),
        ("countdown", {"fewest": 5}, "--most 4: must be at least --fewest, which is 5"),
        ("countdown", {"most": 7}, "--most 7: must be between 2 and 6"),
        (
            "countdown",
            {"largest": 1},
            "0 distinct problems were found, and 10000 further draws gave no new one",
        ),
        ("linear-equations", {"hardest": 4}, "--hardest 4: must be between 1 and 3"),
        ("linear-equations", {"sft": -1}, "--sft -1: must be at least 0"),
        (
            "word-problems",
            {"largest": 3, "most": 1, "train": 90, "heldout": 10},
            # 4 of gets_more, 4 of boxes, 1 of gives_away (3 - 2), 2 of shares (2 / 2, 3 / 3)
            "--heldout 10, --train 90, --sft 0: 11 distinct problems were found",
        ),
        (
            "modular-arithmetic",
            {"smallest_modulus": 30},
            "--largest-modulus 20: must be at least --smallest-modulus",
        ),
        ("school-mathematics", {"modules": "numbers,algbra"}, "'algbra' must be one of all, algebra, "),
        ("school-mathematics", {"modules": "numbers__gdc"}, "Did you mean 'numbers__gcd'?"),
        ("chains", {"terms": 3}, "--train 4096 and --heldout 300: 4396 distinct problems wanted"),
    ],
)
def test_impossible_wishes_name_the_flag(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        GENERATORS[name].generate(GENERATORS[name].options(**options), 0)
    assert message in str(refusal.value)


SCHOOL = """
import json
from reasoner_rl.datasets.generated.school_mathematics import SchoolMathematicsOptions, generate
print(json.dumps(generate(SchoolMathematicsOptions(train=110, heldout=22), 1)))
"""


def test_school_mathematics_of_two_processes(repository: Path) -> None:
    """The verifier accepts each answer as its own, and neither hash seeds nor the global random state matter."""
    pytest.importorskip("mathematics_dataset", reason="the extra school-math is not installed")
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(repository)}
    elsewhere = subprocess.run(
        [sys.executable, "-c", SCHOOL], env=environment, capture_output=True, text=True, check=True
    )
    random.seed(7)
    before = random.getstate()
    options = school_mathematics.SchoolMathematicsOptions(train=110, heldout=22)
    splits = school_mathematics.generate(options, 1)
    assert random.getstate() == before
    assert json.loads(elsewhere.stdout) == splits
    rows = all_rows(splits)
    assert len({row["problem"] for row in rows}) == 132
    assert {row["difficulty"] for row in rows} == {1, 2, 3}
    assert {row["module"] for row in rows} == set(school_mathematics.MODULES)
    for row in rows:
        assert compute_score(row["data_source"], f"Answer: {row['answer']}", row["answer"])["acc"], row
    sums = [row for row in rows if row["module"] == "arithmetic__add_sub_multiple"]
    for row in sums:
        expression = re.search(r"[-(0-9][-+() 0-9]*", row["problem"])
        assert expression is not None
        assert value(expression[0].strip()) == int(row["answer"])
    factors = [row for row in rows if row["module"] == "numbers__gcd"]
    assert sums
    assert factors
    for row in factors:
        first, second = map(int, re.findall("[0-9]+", row["problem"]))
        assert Fraction(first, second).denominator * int(row["answer"]) == second
