"""Rankings and comparisons of several answers: what is read, and what is told of bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reasoner_rl.errors import DataError
from reasoner_rl.prompts.rankings import ComparedAnswers, RankingsReport, read_rankings

QUESTION = {"role": "user", "content": "2 + 3?"}


def read(folder: Path, *rows: Any) -> tuple[list[ComparedAnswers], RankingsReport]:
    path = folder / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rankings(path)


def ranking(answers: Any, ranks: Any, prompt: Any = "2 + 3?") -> dict[str, Any]:
    return {"prompt": prompt, "answers": answers, "ranks": ranks}


def comparison(chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "2 + 3?", "chosen": chosen, "rejected": rejected, **more}


def test_a_ranking_is_a_comparison_of_each_two_answers(tmp_path: Path) -> None:
    [entry], report = read(tmp_path, ranking(["5", "6", "7", "8"], [2, 1.5, 2, None]))
    assert (entry.row, entry.messages, entry.answers) == (1, (QUESTION,), ["5", "6", "7", "8"])
    assert entry.wins == {(1, 0): 1, (0, 1): 0, (0, 2): 0.5, (2, 0): 0.5, (1, 2): 1, (2, 1): 0}
    assert (entry.comparisons, entry.ties) == (3, 1)
    assert str(report) == "1 rows read, 1 of them rankings"


def test_comparisons_of_several_judges_are_collected_by_prompt(tmp_path: Path) -> None:
    as_messages = ranking([[{"role": "assistant", "content": "5"}], "6"], [1, 2], [QUESTION])
    entries, report = read(
        tmp_path,
        comparison("5", "6"),
        comparison("6", "5", tie=False),
        {"prompt": "4 + 4?", "chosen": "8", "rejected": "9"},
        comparison("5", "6"),
        comparison("7", "6", tie=True),
        comparison("7", "7"),
        as_messages,
        ranking(["6", "6"], [1, 2]),
        ranking(["0"], [1]),
        ranking(["5", "0"], [None, 1]),
    )
    assert [(entry.row, entry.answers) for entry in entries] == [(1, ["5", "6", "7", "0"]), (3, ["8", "9"])]
    assert entries[0].wins == {(0, 1): 3, (1, 0): 1, (2, 1): 0.5, (1, 2): 0.5}
    assert [(entry.comparisons, entry.ties) for entry in entries] == [(5, 1), (1, 0)]
    assert (report.rows, report.rankings) == (10, 4)
    assert str(report) == (
        "10 rows read, 4 of them rankings; 2 that compare an answer with itself, which counts for nothing (rows 6, 8); "
        "2 with fewer than two ranked answers (rows 9, 10)"
    )


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "ranked.parquet"
    rows = [ranking(["5", "6", "7"], [1, 2, None]), comparison("5", "6", tie=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), path)
    [entry], _ = read_rankings(path)
    assert (entry.answers, entry.wins) == (["5", "6", "7"], {(0, 1): 1, (1, 0): 0})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[1:]), path)
    [entry], _ = read_rankings(path)
    assert entry.wins == {(0, 1): 0.5, (1, 0): 0.5}


BAD_ROWS: list[tuple[Any, str]] = [
    (
        {"prompt": "2 + 3?", "completion": "5"},
        "must have the columns answers and ranks, or chosen and rejected;",
    ),
    ({"prompt": "2 + 3?", "answers": ["5"]}, "no column 'ranks'; found prompt, answers."),
    ({"prompt": "2 + 3?", "chosen": "5"}, "no column 'rejected'; found prompt, chosen."),
    ({"answers": ["5"], "ranks": [1]}, "no column 'prompt'; found answers, ranks."),
    (ranking("5", [1]), "answers must be a list of at least one answer; it is '5'"),
    (ranking([], []), "answers must be a list of at least one answer; it is []"),
    (ranking(["5", ""], [1, 2]), "answers.1 must be text, and not empty; it is ''"),
    (ranking(["5", 6], [1, 2]), "answers.1 must be text, and not empty; it is 6"),
    (ranking(["5", "6"], [1]), "ranks must be a list of 2 ranks, as there are answers; it is [1]"),
    (
        ranking(["5", "6"], [0, 1]),
        "ranks.0 must be a number of at least 1, where 1 is the best, or null if the",
    ),
    (ranking(["5", "6"], [1, True]), "ranks.1 must be a number of at least 1, where 1 is the best"),
    (ranking(["5", "6"], [1, float("nan")]), "ranks.1 must be a number of at least 1, where 1 is the best"),
    (ranking(["5", "6"], [1, int("9" * 400)]), "ranks.1 must be a number of at least 1, where 1 is the best"),
    (ranking(["5", "6"], [1, "2"]), "ranks.1 must be a number of at least 1, where 1 is the best"),
    (comparison("5", "6", tie=1), "tie must be true, false or null; it is 1"),
    (comparison("5", " "), "rejected must be text, and not empty; it is ' '"),
    ([1], "the row must be a mapping of columns; it is [1]"),
]


@pytest.mark.parametrize(("bad", "rule"), BAD_ROWS, ids=[rule[:40] for _, rule in BAD_ROWS])
def test_a_bad_row_is_named(bad: Any, rule: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, comparison("5", "6"), bad)
    assert str(caught.value).startswith(f"{tmp_path / 'ranked.jsonl'}, row 2: {rule}")


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ranked\.jsonl: the file holds no rows"):
        read(tmp_path)
