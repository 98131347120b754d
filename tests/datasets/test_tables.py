"""Measures of problems, and their table in verl's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.datasets.measures import answer_type, lengths
from reasoner_rl.datasets.table import problem_table
from reasoner_rl.prompts.read import Problem, read_problems


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("17", "integer"),
        ("-1,234", "integer"),
        ("$5$", "integer"),
        ("0.5", "decimal"),
        ("3/4", "fraction"),
        ("-\\dfrac{3}{4}", "fraction"),
        ("\\frac34", "fraction"),
        ("12%", "number with a unit or percent"),
        ("7 cm", "number with a unit or percent"),
        ("(3, \\frac{\\pi}{2})", "tuple or interval"),
        ("[0,1)", "tuple or interval"),
        ('{"numbers": [1, 2], "target": 3}', "list or mapping (JSON)"),
        ("Yes", "words"),
        ("\\text{Evelyn}", "words"),
        ("p - q", "expression"),
        ("\\sqrt{2}", "expression"),
        ("x=5", "expression"),
    ],
)
def test_types_of_answers(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


def test_lengths_by_hand() -> None:
    measured = lengths([*range(1, 20), 100], "words")
    assert (measured.least, measured.median, measured.percentile_95, measured.most) == (1, 10.5, 19, 100)
    assert measured.histogram == ((16, 16), (32, 3), (64, 0), (128, 1))
    assert lengths([1000], "words").histogram == ((1024, 1),)


def problem(number: int, **extra: Any) -> Problem:
    return Problem(
        f"x/{number}",
        ({"role": "user", "content": f"p{number}"},),
        str(number),
        "s",
        {"index": number, **extra},
    )


def test_a_table_reads_back_as_the_same_problems(tmp_path: Path) -> None:
    problems = [
        problem(0, level=3, tags=["a", "b"], tests={"x": 1}, mixed=1, loose={"a": 1}, nothing={}),
        problem(1, level=None, tags=[], tests={"x": 2}, mixed="é", loose={"b": 2}, nothing={}),
    ]
    made = problem_table(problems)
    assert made.as_text == ("mixed", "loose", "nothing")
    pyarrow.parquet.write_table(made.table, tmp_path / "x.parquet")
    read, _ = read_problems(DatasetConfig(path=tmp_path / "x.parquet"))
    assert [(one.messages, one.ground_truth, one.data_source) for one in read] == [
        (one.messages, one.ground_truth, one.data_source) for one in problems
    ]
    as_text = {"mixed": ("1", '"é"'), "loose": ('{"a": 1}', '{"b": 2}'), "nothing": ("{}", "{}")}
    for number, (one, given) in enumerate(zip(read, problems, strict=True)):
        assert one.extra_info == given.extra_info | {key: texts[number] for key, texts in as_text.items()}
    schema = pyarrow.parquet.read_schema(tmp_path / "x.parquet")
    assert schema.names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
