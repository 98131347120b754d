"""Worked solutions from formulas, and a split that shares no wording."""

from __future__ import annotations

import itertools
import json
import random
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.datasets.formulas import FormulaError, solution_of
from reasoner_rl.datasets.word_problems import (
    count_near,
    split_by_wording,
    without_duplicates,
    worked_examples,
)
from reasoner_rl.datasets.wording import families, near_pairs, proper_names, template_of

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "prepare_word_problems.py"


@pytest.mark.parametrize(
    ("formula", "answer", "solution"),
    [
        ("5256+2987=8243", "8243", "5256 + 2987 = 8243\nAnswer: 8243"),
        ("(10-4)*3=18", "18", "10 - 4 = 6\n6 * 3 = 18\nAnswer: 18"),
        ("10-4*2=2", "2", "4 * 2 = 8\n10 - 8 = 2\nAnswer: 2"),
        ("10-4-3=3", "3", "10 - 4 = 6\n6 - 3 = 3\nAnswer: 3"),
        ("24/4/2=3", "3", "24 / 4 = 6\n6 / 2 = 3\nAnswer: 3"),
        ("((2+3)*(7-5))/4=2.5", "2.5", "2 + 3 = 5\n7 - 5 = 2\n5 * 2 = 10\n10 / 4 = 2.5\nAnswer: 2.5"),
        ("4.80/4=1.20", "1.2", "4.8 / 4 = 1.2\nAnswer: 1.2"),
        ("0.1+0.2=0.3", "0.3", "0.1 + 0.2 = 0.3\nAnswer: 0.3"),
        (".5*4=2", "2.0", "0.5 * 4 = 2\nAnswer: 2"),
        ("20%*50=10", "10", "20 / 100 = 0.2\n0.2 * 50 = 10\nAnswer: 10"),
        ("-3+5=2", "2", "-3 + 5 = 2\nAnswer: 2"),
        ("5--3=8", "8", "5 - -3 = 8\nAnswer: 8"),
        ("-(2+3)*2=-10", "-10", "2 + 3 = 5\n-5 * 2 = -10\nAnswer: -10"),
        (" 7 * 2 + 9 = 23 ", "23", "7 * 2 = 14\n14 + 9 = 23\nAnswer: 23"),
        ("43+19=62; 62-60=2", "2", "43 + 19 = 62\n62 - 60 = 2\nAnswer: 2"),
        ("3 (m)*2 = 6 (m); 6*1000 (mm/m) = 6000 (mm)", "6000", "3 * 2 = 6\n6 * 1000 = 6000\nAnswer: 6000"),
        ("40/7=5 r5", "5", "40 / 7 = 5 remainder 5\nAnswer: 5"),
        ("(4*32)/6=21 r2", "2", "4 * 32 = 128\n128 / 6 = 21 remainder 2\nAnswer: 2"),
    ],
)
def test_formula_is_worked_one_operation_a_line(formula: str, answer: str, solution: str) -> None:
    text, number = solution_of(formula, answer)
    assert text == solution
    assert text.endswith(f"Answer: {number}")


@pytest.mark.parametrize(
    ("formula", "answer", "reason"),
    [
        ("2+2=5", "5", "result is wrong"),
        ("2+2=4", "5", "does not yield the answer"),
        ("40/7=5 r4", "5", "result is wrong"),
        ("40/7=4 r12", "4", "result is wrong"),  # a remainder is smaller than the divisor
        ("105/6=17 r3", "18", "does not yield the answer"),
        ("40/0=0 r0", "0", "result is wrong"),
        ("3/(2-2)=0", "0", "divides by zero"),
        ("1/3*3=1", "1", "not a short decimal"),
        ("8=8", "8", "no operation"),
        ("2+3", "5", "not plain arithmetic"),
        ("2+=2", "2", "not plain arithmetic"),
        ("(2+3=5", "5", "not plain arithmetic"),
        ("2+3)=5", "5", "not plain arithmetic"),
        ("2 3=23", "23", "not plain arithmetic"),
        ("", "1", "not plain arithmetic"),
        ("=1", "1", "not plain arithmetic"),
        ("2**3=8", "8", "not plain arithmetic"),
        ("9//2=4", "4", "not plain arithmetic"),
        ("LCM[7,9]=63; 63/7=9", "9", "not plain arithmetic"),
        ("x:The number; x+15=96", "81", "not plain arithmetic"),
        ("2:3=14:21", "21", "not plain arithmetic"),
        ("__import__('os').getcwd()=1", "1", "not plain arithmetic"),
        ("1+(lambda: 1)()=2", "2", "not plain arithmetic"),
        ("1e3+1=1001", "1001", "not plain arithmetic"),
        ("٣+1=4", "4", "not plain arithmetic"),
        ("(" * 5000 + "1" + ")" * 5000 + "+1=2", "2", "not plain arithmetic"),
        ("9" * 5000 + "+1=2", "2", "not plain arithmetic"),
        ("2+3=5", "five", "answer is not a number"),
    ],
)
def test_formula_without_a_worked_solution_says_why(formula: str, answer: str, reason: str) -> None:
    with pytest.raises(FormulaError, match=reason):
        solution_of(formula, answer)


def test_unusable_rows_are_dropped_and_counted_by_reason() -> None:
    rows = [
        {"problem": "a", "formula": "1+1=2", "answer": "2"},
        {"problem": "b", "formula": "1+1=3", "answer": "3"},
        {"problem": "c", "formula": "x=1", "answer": "1"},
    ]
    dropped: Counter[str] = Counter()
    assert worked_examples(rows, dropped) == [
        {"problem": "a", "answer": "2", "source": "asdiv", "solution": "1 + 1 = 2\nAnswer: 2"}
    ]
    assert dropped == {"the formula's result is wrong": 1, "the formula is not plain arithmetic": 1}


def test_names_are_words_never_written_in_lower_case() -> None:
    problems = ["Joan gave Sam red shells on Monday.", "She saw red shells. he and she left.", "Red or not?"]
    assert proper_names(problems) == {"joan", "sam", "monday"}


def test_template_ignores_names_numbers_gender_and_spacing() -> None:
    names = frozenset({"joan", "sam", "tom", "mike"})
    first = "Joan found 70 seashells . She gave Sam 3 of her seashells ."
    second = "Tom found 1,200 seashells. He gave Mike three of his seashells."
    assert template_of(first, names) == "@ found # seashells he gave @ # of his seashells"
    assert template_of(second, names) == template_of(first, names)
    assert template_of(second.replace("found", "lost"), names) != template_of(first, names)


def _mawps() -> list[dict[str, str]]:
    """40 stories with three problems each that differ by name and numbers only."""
    things = [f"{adjective} {noun}" for adjective in ("red", "blue", "old", "big") for noun in "abcdefghij"]
    return [
        {"problem": f"{name} has {n} {thing} . How many {thing} ?", "answer": str(n), "source": "mawps"}
        for thing in things
        for n, name in enumerate(("Ann", "Bob", "Cem"))
    ]


def test_split_shares_no_wording_is_complete_and_repeats_with_its_seed() -> None:
    rows = _mawps()
    names = proper_names(row["problem"] for row in rows)
    seen = frozenset({template_of(rows[0]["problem"], names)})
    train, held = split_by_wording(rows, 30, 7, names, seen)

    def templates(part: list[dict[str, str]]) -> set[str]:
        return {template_of(row["problem"], names) for row in part}

    assert len(held) == 30
    assert sorted(row["problem"] for row in train + held) == sorted(row["problem"] for row in rows)
    assert not templates(train) & templates(held)
    assert not seen & templates(held)
    assert split_by_wording(rows, 30, 7, names, seen) == (train, held)
    assert split_by_wording(rows, 30, 8, names, seen)[1] != held


@pytest.mark.parametrize(
    ("heldout", "message"),
    [(200, "--heldout 200: only 120 problems can be held out"), (-3, "--heldout -3: must be at least 1")],
)
def test_split_refuses_to_hold_out_more_than_there_is_and_none(heldout: int, message: str) -> None:
    rows = _mawps()
    names = proper_names(row["problem"] for row in rows)
    with pytest.raises(ValueError, match=message):
        split_by_wording(rows, heldout, 0, names, frozenset())


@pytest.mark.parametrize(
    "number",
    ["34", "1,200", "2.5", "thirteen", "ninety", "thirty-four", "Sixty five", "two thousand", "2 dozen"],
)
def test_a_number_in_a_template_is_one_sign_however_it_is_written(number: str) -> None:
    assert template_of(f"He has {number} nuts", frozenset()) == "he has # nuts"


def test_near_pairs_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.sample("abcdefghijklmn", rng.randint(1, 14))) for _ in range(300)]
    templates = list(dict.fromkeys(texts))

    def similarity(left: str, right: str) -> float:
        first, second = set(left.split()), set(right.split())
        return len(first & second) / len(first | second)

    expected = {
        frozenset((i, j))
        for i, j in itertools.combinations(range(len(templates)), 2)
        if similarity(templates[i], templates[j]) >= 0.8
    }
    found = [frozenset(templates.index(text) for text in pair) for pair in near_pairs(templates)]
    assert len(expected) > 50
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_a_chain_of_near_templates_is_one_family() -> None:
    text = "a b c d e f g h i j"
    chain = [text, text.replace("a", "k"), text.replace("a", "k").replace("b", "l")]
    family_of = families([*chain, "x y z"])
    assert {family_of[template] for template in chain} == {min(chain)}
    assert family_of["x y z"] == "x y z"


def test_templates_near_seen_ones_are_counted_but_not_those_near_each_other() -> None:
    seen = frozenset({"a b c d e f g h i j"})
    templates = ["a b c d e f g h i k", "a b c d e f g h l k", "x y", "x y", *seen]
    assert count_near(templates, seen) == 2


def test_a_problem_worded_almost_like_one_of_asdiv_is_not_held_out() -> None:
    story = "Joan had 3 {} in her bank . Her dad gave her {} {} . How many does she have now ?"
    near = {"problem": story.format("dimes", "thirty-nine", "dimes"), "answer": "42"}
    other = {"problem": "Trains leave hourly from 7 to 9 . How many leave ?", "answer": "3"}
    names = frozenset({"joan"})
    seen = frozenset({template_of(story.format("quarters", "2", "quarters"), names)})
    assert split_by_wording([near, other], 1, 0, names, seen) == ([near], [other])
    with pytest.raises(ValueError, match="only 1 problems"):
        split_by_wording([near, other], 2, 0, names, seen)


def test_duplicates_go_and_contradictions_go_altogether() -> None:
    rows = [
        {"problem": "How  many ?", "answer": "1"},
        {"problem": "how many ?", "answer": "1"},
        {"problem": "How many.", "answer": "1"},
        {"problem": "How many 1.5 ?", "answer": "1"},
        {"problem": "How many 15 ?", "answer": "2"},
        {"problem": "How much ?", "answer": "1"},
        {"problem": "How much ?", "answer": "2"},
    ]
    dropped: Counter[str] = Counter()
    assert without_duplicates(rows, dropped) == [rows[0], rows[3], rows[4]]
    assert dropped == {"duplicate": 2, "answers differ between duplicates": 2}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """A function that runs the script in this process: status, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(SCRIPT))
        except SystemExit as exit:
            status = int(exit.code or 0)
        return status, *capsys.readouterr()

    return run


def test_script_writes_the_four_files(tmp_path: Path, script: Script) -> None:
    asdiv = _write(
        tmp_path / "asdiv.jsonl",
        [
            {"problem": "Dan has 1 red a. How many red a?", "formula": "1+1=2", "answer": "2"},
            {"problem": "Solve x.", "formula": "x=2", "answer": "2"},
        ],
    )
    mawps = _write(tmp_path / "mawps.jsonl", [*_mawps(), {"problem": "A third ?", "answer": "0.3333333333"}])
    # JSON allows U+2028 and U+0085 within a text, where they end no row
    eve = "Eve has 9\u2028blue b.\u0085How many blue b?"
    svamp_rows = [{"problem": eve, "answer": "9", "extra": 1}]
    svamp = tmp_path / "svamp.jsonl"
    svamp.write_text(json.dumps(svamp_rows[0], ensure_ascii=False) + "\n", encoding="utf-8")
    inputs = ("--asdiv", asdiv, "--mawps", mawps, "--svamp", svamp, "--heldout", 9)
    status, report, errors = script(*inputs, "--out", tmp_path / "out")
    assert (status, errors) == (0, "")

    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "out" / name).read_text().split("\n")[:-1]]

    assert [row["solution"] for row in read("asdiv_sft.jsonl")] == ["1 + 1 = 2\nAnswer: 2"]
    assert len(read("mawps_heldout.jsonl")) == 9
    assert len(read("mawps_train.jsonl")) == 111
    assert not any("red a " in row["problem"] for row in read("mawps_heldout.jsonl"))
    assert read("svamp.jsonl") == svamp_rows
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "asdiv_sft.jsonl",
        "mawps_heldout.jsonl",
        "mawps_train.jsonl",
        "svamp.jsonl",
    ]
    assert "1  answer is not an exact short decimal" in report
    assert "svamp: 1 rows read, 1 worded almost like asdiv or mawps_train (kept)" in report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"problem": "p", "answer": "1", "formula": "1"}\n{"problem": "p", "answer": 1}',
            "row 2: answer must be text, and not empty; it is 1",
        ),
        (
            b'{"problem": "p", "answers": "1"}',
            "row 1: no column 'answer'; found problem, answers. Did you mean",
        ),
        (b"not json", "row 1: not valid JSON"),
        ('{"problem": "caf\u00e9", "answer": "1"}'.encode("latin-1"), "row 1: cannot be read: 'utf-8' codec"),
        (b"\n", "the file holds no rows"),
        (None, "does not exist"),
    ],
)
def test_bad_input_names_file_and_row(
    tmp_path: Path, content: bytes | None, message: str, script: Script
) -> None:
    path = tmp_path / "in.jsonl"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out"
    inputs = [argument for name in ("asdiv", "mawps", "svamp") for argument in (f"--{name}", path)]
    status, _, error = script(*inputs, "--out", out)
    assert status == 2
    assert error.startswith("error: ")
    assert f"{path}" in error
    assert message in error
    assert not out.exists()
