"""Columns are found by their common names, and what is ambiguous or unknown is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.data import ColumnMap, DatasetConfig
from reasoner_rl.datasets.catalog import CATALOG, split_of
from reasoner_rl.datasets.columns import SAMPLE, recognise
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import read_problems
from reward_fns.registry import RULES, rule_for


def jsonl(folder: Path, rows: list[Any]) -> Path:
    file = folder / "set.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


MESSAGES = [{"role": "user", "content": "1+1?"}]
# Row, how its columns are read, and the problem and ground truth that come of it.
ROWS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"problem": "1+1?", "answer": "2"}, {}, "1+1?", "2"),
    ({"Question": "1+1?", "Answer": 2}, {"problem": "Question", "answer": "Answer"}, "1+1?", "2"),
    (
        {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"problem": "question", "answer_form": "hash"},
        "1+1?",
        "2",
    ),
    (
        {"problem": "1+1?", "solution": "It is $\\boxed{\\frac{4}{2}}$."},
        {"answer": "solution", "answer_form": "boxed"},
        "1+1?",
        "\\frac{4}{2}",
    ),
    (
        {"id": "a-1", "problem": "1+1?", "solution": "I add.", "answer": "2", "ground_truth": "3"},
        {"id": "id"},
        "1+1?",
        "2",
    ),
    (
        {"prompt": MESSAGES, "final_answer": "2"},
        {"problem": "prompt", "answer": "final_answer"},
        "1+1?",
        "2",
    ),
    (
        {"Body": "One and one.", "Question": "How many?", "Answer": 2.0},
        {"problem": ["Body", "Question"], "answer": "Answer"},
        "One and one. How many?",
        "2.0",
    ),
    (
        {"Body": "One.", "question_concat": "One. How many?", "Question": "How many?", "Answer": 1},
        {"problem": "question_concat", "answer": "Answer"},
        "One. How many?",
        "1",
    ),
]


@pytest.mark.parametrize(("row", "columns", "problem", "truth"), ROWS, ids=range(len(ROWS)))
def test_common_names(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, Any], problem: str, truth: str
) -> None:
    file = jsonl(tmp_path, [row])
    found = recognise(file, {})
    assert (found.verl, found.columns) == (False, ColumnMap(**columns))
    (read,), _ = read_problems(DatasetConfig(path=file, columns=found.columns))
    assert (read.messages[0]["content"], read.ground_truth) == (problem, truth)
    assert read.extra_info["index"] == row.get("id", 0)


def test_the_form_of_an_answer_is_that_of_all_rows(tmp_path: Path) -> None:
    rows = [{"problem": f"p{n}", "answer": f"so #### {n}"} for n in range(SAMPLE)]
    rows[7]["answer"] = "7"
    file = jsonl(tmp_path, rows)
    found = recognise(file, {})
    assert found.columns.answer_form == "whole"
    assert (
        f"(whole: {SAMPLE - 1} of the first {SAMPLE} have ####, the others do not; --answer-form"
        in found.said
    )
    assert "####" not in recognise(file, {"answer_form": "whole"}).said
    rows[7]["answer"] = "#### 7"
    file = jsonl(tmp_path, [*rows, {"problem": "late", "answer": "8"}])
    found = recognise(file, {})
    assert found.columns.answer_form == "hash"
    with pytest.raises(DataError, match=r"row 101: answer must end in #### and the answer .* it is '8'"):
        read_problems(DatasetConfig(path=file, columns=found.columns))


def test_what_the_user_says_goes_before_names(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"problem": "no", "stem": "p", "key": "x #### 2", "answer": "1"}])
    found = recognise(file, {"problem": "stem", "answer": "key", "answer_form": "whole"})
    assert found.columns == ColumnMap(problem="stem", answer="key", answer_form="whole")
    assert found.said == "columns problem: stem, answer: key"


def test_published_columns_are_taken_where_the_file_has_them(tmp_path: Path) -> None:
    published = CATALOG["deepmath"].columns
    row = {"question": "q", "final_answer": "1", "difficulty": 4.5, "topic": "t", "r1_solution_1": "long"}
    assert recognise(jsonl(tmp_path, [row]), {}, published).columns == published
    local = {"problem": "q", "answer": "1", "difficulty": 4.5}
    assert recognise(jsonl(tmp_path, [local]), {}, published).columns == ColumnMap()


def test_rows_in_verls_format_need_no_map(tmp_path: Path) -> None:
    row = {"data_source": "d", "prompt": MESSAGES, "reward_model": {"ground_truth": "2"}}
    assert recognise(jsonl(tmp_path, [row]), {}).verl
    assert not recognise(jsonl(tmp_path, [row | {"plain": "1+1?", "answer": "2"}]), {"problem": "plain"}).verl


def test_unknown_names_are_told_with_the_flag(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"stem": "p", "answer": "a"}])
    with pytest.raises(
        DataError, match=r"no column .* for the problem .*; found stem, answer\. .*--problem-column"
    ):
        recognise(file, {})
    file = jsonl(tmp_path, [{"problem": "p", "key": "a"}])
    with pytest.raises(DataError, match=r"found problem, key\. Say which it is: --answer-column NAME"):
        recognise(file, {})
    with pytest.raises(
        DataError, match=r"--answer-column kye: there is .*; found problem, key\. Did you mean 'key'"
    ):
        recognise(file, {"problem": ["problem"], "answer": "kye"})
    file.write_text("\n")
    with pytest.raises(DataError, match="the file holds no rows"):
        recognise(file, {})
    file.write_text("not json\n")
    with pytest.raises(DataError, match="row 1: not valid JSON"):
        recognise(file, {})


def test_known_sets_have_a_rule_and_splits() -> None:
    patterns = {pattern for pattern, _ in RULES}
    for name, entry in CATALOG.items():
        assert rule_for(entry.data_source) in [rule for _, rule in RULES]
        assert any(entry.data_source.startswith(pattern.rstrip("*")) for pattern in patterns), name
        assert entry.problems.keys() <= entry.files.keys()
        assert entry.stem(entry.default_split).startswith(name)
    assert CATALOG["gsm8k"].stem(split_of(CATALOG["gsm8k"], "test")) == "gsm8k-test"
    with pytest.raises(ConfigError, match=r"--split tets: gsm8k has train, test\. Did you mean 'test'\?"):
        split_of(CATALOG["gsm8k"], "tets")
