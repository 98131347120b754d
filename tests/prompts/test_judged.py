"""Judged answers in TRL's formats: what is read, and what is told of bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.preference import JudgedData
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.judged import JudgedExample, JudgedReport, read_judged

Found = tuple[list[JudgedExample], JudgedReport]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, rows: list[Any], suffix: str = "jsonl") -> Path:
    path = folder / f"judged.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, kind: JudgedData, rows: list[Any], suffix: str = "jsonl", **options: Any) -> Found:
    path = write(folder, rows, suffix)
    return read_judged(JudgedDatasetConfig.model_validate({"path": path} | options), kind)


PROMPT = [{"role": "system", "content": "Be brief."}, user("2 + 3?")]
IMPLICIT = {"columns": {"prompt": None}}
PAIR = JudgedExample(1, (user("2 + 3?"),), ("5", "6"), (1.0, 0.0))
IN_CONVERSATION = JudgedExample(1, tuple(PROMPT), ("5", "6"), (1.0, 0.0))
FORMATS: dict[str, tuple[JudgedData, dict[str, Any], dict[str, Any], list[JudgedExample]]] = {
    "text": ("pairs", {"prompt": "2 + 3?", "chosen": "5", "rejected": "6"}, {}, [PAIR]),
    "messages": (
        "pairs",
        {"prompt": PROMPT, "chosen": [assistant("5")], "rejected": [assistant("6")]},
        {},
        [IN_CONVERSATION],
    ),
    "implicit prompt": (
        "pairs",
        {"chosen": "2 + 3 is five", "rejected": "2 + 3 is six"},
        IMPLICIT,
        [JudgedExample(1, (user("2 + 3 is"),), (" five", " six"), (1.0, 0.0))],
    ),
    "implicit prompt of conversations": (
        "pairs",
        {"chosen": [*PROMPT, assistant("5")], "rejected": [*PROMPT, assistant("6")]},
        IMPLICIT,
        [IN_CONVERSATION],
    ),
    "labels": (
        "labels",
        {"prompt": "2 + 3?", "completion": "6", "label": False},
        {},
        [JudgedExample(1, (user("2 + 3?"),), ("6",), (0.0,))],
    ),
    "labels in conversations": (
        "labels",
        {"prompt": PROMPT, "completion": [assistant("5")], "label": True},
        {},
        [JudgedExample(1, tuple(PROMPT), ("5",), (1.0,))],
    ),
    "a pair as labels": (
        "labels",
        {"prompt": "2 + 3?", "chosen": "5", "rejected": "6"},
        {},
        [
            JudgedExample(1, (user("2 + 3?"),), ("5",), (1.0,)),
            JudgedExample(1, (user("2 + 3?"),), ("6",), (0.0,)),
        ],
    ),
    "scores": (
        "scores",
        {"prompt": "2 + 3?", "completion": "5", "reward": 0.75},
        {},
        [JudgedExample(1, (user("2 + 3?"),), ("5",), (0.75,))],
    ),
    "own names": (
        "scores",
        {"q": "2 + 3?", "a": "5", "s": -2},
        {
            "columns": {"prompt": "q", "completion": "a", "score": "s"},
            "prompt_template": "Work out {prompt}",
        },
        [JudgedExample(1, (user("Work out 2 + 3?"),), ("5",), (-2.0,))],
    ),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, suffix: str, tmp_path: Path) -> None:
    kind, row, options, expected = FORMATS[name]
    examples, report = read(tmp_path, kind, [row], suffix, **options)
    assert examples == expected
    assert report == JudgedReport(1, [], [], len(expected))


ASKED = {"prompt": "2 + 3?"}
BAD_ROWS: list[tuple[JudgedData, Any, dict[str, Any], str]] = [
    (
        "pairs",
        ASKED | {"chosen": "5", "rejected": " "},
        {},
        "rejected must be text, and not empty; it is ' '",
    ),
    (
        "pairs",
        ASKED | {"chosen": [], "rejected": "6"},
        {},
        "chosen must hold at least one message; it is []",
    ),
    (
        "pairs",
        {"prompt": "", "chosen": "5", "rejected": "6"},
        {},
        "prompt must be text, and not empty; it is ''",
    ),
    ("pairs", ASKED | {"chosen": "5"}, {}, "no column 'rejected'; found prompt, chosen."),
    (
        "pairs",
        {"chosen": "5", "rejected": "6"},
        {},
        "no column 'prompt': set columns.prompt to its name, or to null",
    ),
    (
        "pairs",
        ASKED | {"chosen": [assistant("5"), assistant("!")], "rejected": [assistant("6")]},
        {},
        "chosen must hold one message, of the assistant, after the prompt; it is 'assistant, assistant'",
    ),
    (
        "pairs",
        ASKED | {"chosen": [user("5")], "rejected": [assistant("6")]},
        {},
        "chosen must hold one message, of the assistant, after the prompt; it is 'user'",
    ),
    (
        "pairs",
        ASKED | {"chosen": ["5"], "rejected": "6"},
        {},
        "chosen must be text, or a list of messages with role and content; it is '5'",
    ),
    (
        "pairs",
        ASKED | {"chosen": [{"role": "assistant"}], "rejected": "6"},
        {},
        "no column 'chosen.0.content'; found role.",
    ),
    (
        "pairs",
        {"chosen": "yes", "rejected": "no"},
        IMPLICIT,
        "chosen and rejected must begin with the same prompt, and each go beyond it, as columns.prompt is null",
    ),
    (
        "pairs",
        {"chosen": "2 + 3 = 5", "rejected": "2 + 3 = 51"},
        IMPLICIT,
        "chosen and rejected must begin with the same prompt, and each go beyond it",
    ),
    (
        "pairs",
        {"chosen": [user("a"), assistant("5")], "rejected": [user("b"), assistant("6")]},
        IMPLICIT,
        "chosen and rejected must begin with the same messages, as columns.prompt is null",
    ),
    ("labels", ASKED | {"completion": "5"}, {}, "no column 'label'; found prompt, completion."),
    (
        "labels",
        ASKED | {"completion": "5", "label": None},
        {},
        "label must be true or false; it is None",
    ),
    (
        "labels",
        ASKED | {"completion": "5", "label": "good"},
        {},
        "label must be true or false; it is 'good'",
    ),
    (
        "labels",
        ASKED | {"completion": "", "label": True},
        {},
        "completion must be text, and not empty; it is ''",
    ),
    (
        "scores",
        ASKED | {"completion": "5", "reward": float("nan")},
        {},
        "reward must be a finite number; it is nan",
    ),
    (
        "scores",
        ASKED | {"completion": "5", "reward": int("9" * 400)},
        {},
        "reward must be a finite number; it is 9999",
    ),
    (
        "scores",
        ASKED | {"completion": "5", "reward": True},
        {},
        "reward must be a finite number; it is True",
    ),
    ("scores", ASKED | {"completion": "5"}, {}, "no column 'reward'; found prompt, completion."),
    ("pairs", [1], {}, "the row must be a mapping of columns; it is [1]"),
]


@pytest.mark.parametrize(("kind", "bad", "options", "rule"), BAD_ROWS)
def test_a_bad_row_is_named(kind: JudgedData, bad: Any, options: Any, rule: str, tmp_path: Path) -> None:
    good = ASKED | {"chosen": "5 or", "rejected": "6", "completion": "5", "label": True, "reward": 1}
    if options:
        good = {"chosen": "2 + 3? 5", "rejected": "2 + 3? 6"}
    with pytest.raises(DataError) as caught:
        read(tmp_path, kind, [good, bad], **options)
    assert str(caught.value).startswith(f"{tmp_path / 'judged.jsonl'}, row 2: {rule}")


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file holds no rows"):
        read(tmp_path, "pairs", [])
    with pytest.raises(
        DataError, match=r"columns\.prompt is null, which is for pairs; name the column of prompts"
    ):
        read(tmp_path, "labels", [{"completion": "5", "label": True}], **IMPLICIT)


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_duplicates_are_dropped_and_contradictions_kept_with_their_rows(tmp_path: Path) -> None:
    rows = [
        pair("a", "1", "2"),
        pair("b", "1", "2"),
        pair("a", "1", "2"),
        pair("a", "2", "1"),
        pair("a", "1", "3"),
    ]
    examples, report = read(tmp_path, "pairs", rows)
    assert [example.row for example in examples] == [1, 2, 4, 5]
    assert report == JudgedReport(rows=5, duplicates=[3], contradictions=[1, 4], kept=4)
    assert str(report) == (
        "5 rows read; 4 examples kept; 1 dropped because it was seen before (row 3); 2 that another row judges "
        "otherwise (kept) (rows 1, 4)"
    )
    examples, report = read(tmp_path, "pairs", rows, deduplicate=False)
    assert [example.row for example in examples] == [1, 2, 3, 4, 5]
    assert report == JudgedReport(rows=5, duplicates=[], contradictions=[1, 4], kept=5)


def test_answers_that_are_judged_otherwise(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "1", "label": label} for label in (True, False, 1)]
    examples, report = read(tmp_path, "labels", rows)
    assert [example.scores for example in examples] == [(1.0,), (0.0,)]
    assert (report.duplicates, report.contradictions) == ([3], [1, 2]), "1 is true"


def test_the_limit_counts_examples(tmp_path: Path) -> None:
    rows = [
        pair("a", "1", "2"),
        pair("a", "1", "2"),
        pair("b", "1", "2"),
        pair("c", "1", "2"),
        {"never": "read"},
    ]
    examples, report = read(tmp_path, "pairs", rows, limit=3)
    assert ([e.row for e in examples], report.rows, report.kept) == ([1, 3, 4], 4, 3)
    examples, report = read(tmp_path, "labels", rows, limit=3)
    assert ([e.row for e in examples], report.rows, report.kept) == ([1, 1, 3], 3, 3)
