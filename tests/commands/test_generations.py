"""Reading responses that exist: rows of several kinds, names of keys, run folders, and what is wrong with them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reasoner_rl.commands.generations import Columns, generation_files, read_generations
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import write_rollouts


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_of_all_kinds(tmp_path: Path) -> None:
    verl = {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "?"}],
        "reward_model": {"ground_truth": "7", "style": "rule"},
        "responses": ["e", "f"],
    }
    path = write(
        tmp_path / "rows.jsonl",
        {"response": "a", "ground_truth": "1", "data_source": "x", "extra_info": {"n": 1}, "answer": "no"},
        "",
        {"solution": "", "answer": 2.5, "data_source": None, "id": 12},
        {"response": "b", "solution": "worked out", "answer": 3, "question": "2+1?", "prompt": "no <think>"},
        {"response": "c", "answer": {"target": 3, "numbers": [1, 2]}, "gold": 3, "tokens": 5},
        verl,
    )
    rows = list(read_generations(path))
    assert [row.row for row in rows] == [1, 3, 4, 5, 6]
    assert [(row.responses, row.ground_truth, row.data_source, row.extra_info) for row in rows] == [
        (("a",), "1", "x", {"n": 1}),
        (("",), "2.5", "", {}),
        (("b",), "3", "", {}),
        (("c",), "3", "", {}),
        (("e", "f"), "7", "gsm8k", {}),
    ]
    assert [row.listed for row in rows] == [False, False, False, False, True]
    assert [row.problem for row in rows[:4]] == ["", "12", "2+1?", ""]
    assert json.loads(rows[4].problem) == verl["prompt"]
    assert rows[4].identity() == ("gsm8k", rows[4].problem, "7")
    assert rows[0].identity() == (str(path), "1")
    assert [(task.response, task.ground_truth, task.data_source) for task in rows[4].tasks()] == [
        ("e", "7", "gsm8k"),
        ("f", "7", "gsm8k"),
    ]
    assert (rows[2].tasks()[0].opened_tag, rows[3].tasks()[0].response_tokens) == ("think", 5)
    assert rows[4].content == verl


def test_columns_name_other_keys(tmp_path: Path) -> None:
    row = {"out": {"text": ["a"]}, "a.b": "1", "from": "x", "response": "no", "key": 3, "more": {"n": 1}}
    path = write(tmp_path / "rows.jsonl", row)
    columns = Columns.parse(
        "response=out.text, ground_truth=a.b,data_source=from,problem=key,extra_info=more"
    )
    (read,) = read_generations(path, columns)
    assert (read.responses, read.ground_truth, read.data_source) == (("a",), "1", "x")
    assert (read.problem, read.extra_info) == ("3", {"n": 1})
    for text, said in (
        ("response=respons", "found out, a.b, from, response, key, more. Did you mean 'response'?"),
        ("response=ou.text", "row 1: no key 'ou.text' (--columns response=ou.text); found out, a.b, from, "),
        ("ground_truth=a.c", "row 1: no key 'a.c' (--columns ground_truth=a.c); found out, a.b"),
        ("ground_truth=a.b,data_source=sources", "no key 'sources' (--columns data_source=sources)"),
    ):
        with pytest.raises(DataError) as missing:
            list(read_generations(path, Columns.parse(text)))
        assert said in str(missing.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' must read NAME=KEY"),
        ("response", "'response' must read NAME=KEY"),
        ("response=", "'response=' must read NAME=KEY"),
        ("truth=a", "'truth' must be one of response, ground_truth, problem, data_source, extra_info."),
        ("ground_truht=a", "Did you mean 'ground_truth'?"),
        ("response=a,response=b", "'response' is given twice"),
    ],
)
def test_what_is_wrong_with_columns_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Columns.parse(text)
    assert str(error.value).startswith(f"--columns {text!r}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[1]", "the row must be a mapping of columns; it is [1]"),
        (
            {"ground_truth": "1"},
            "'output' or 'generation' (--columns response=KEY names another); found ground_truth.",
        ),
        ({"respons": "a", "answer": 1}, "found respons, answer. Did you mean 'response'?"),
        (
            {"response": "a"},
            "no key 'ground_truth', 'gold', 'answer', 'target' or 'reward_model.ground_truth' (",
        ),
        (
            {"response": 3, "answer": 1},
            "response must be text, or a list of texts that is not empty; it is 3",
        ),
        (
            {"responses": [], "answer": 1},
            "responses must be text, or a list of texts that is not empty; it is []",
        ),
        ({"response": ["a", None], "answer": 1}, "that is not empty; it is ['a', None]"),
        (
            {"response": "a", "answer": True},
            "answer must be text, a number, a list or a mapping; neither empty, nor with NaN or infinities; "
            "it is True",
        ),
        (
            {"response": "a", "reward_model": {"ground_truth": " "}},
            "reward_model.ground_truth must be text, a ",
        ),
        ({"response": "a", "answer": "1", "data_source": 4}, "data_source must be text; it is 4"),
        ({"response": "a", "answer": "1", "extra_info": []}, "extra_info must be an object; it is []"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"}, row)
    with pytest.raises(DataError) as error:
        list(read_generations(path))
    assert str(error.value).startswith(f"{path}, row 2: ")
    assert said in str(error.value)


def test_parquet_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {"response": ["a"], "answer": ["b"], "day": [datetime.date(2026, 1, 2)], "id": [b"x"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    (row,) = read_generations(path)
    assert (row.responses, row.ground_truth, row.content["day"]) == (("a",), "b", "2026-01-02")
    columns["answer"] = [None]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match=r"rows\.parquet, row 1: answer must be text, .*; it is None"):
        list(read_generations(path))
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read as parquet: "):
        list(read_generations(path))
    write_rollouts(path, 1, [])
    assert list(read_generations(path)) == []
    record = pyarrow.parquet.read_table(path).drop_columns(["step"])
    pyarrow.parquet.write_table(record, path)
    with pytest.raises(DataError, match=r"rows\.parquet: no column 'step'; found group, uid"):
        list(read_generations(path))


def test_folders_of_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r": no record of responses; a folder must be that of a run"):
        generation_files([tmp_path])
    names = [
        "rollouts/step_1.parquet",
        "rollouts/step_1.jsonl",
        "rollouts/step_2.jsonl",
        "evaluations/step_2_a.b.jsonl",
    ]
    for name in [*names, "metrics.jsonl", "rollouts/.step_3.parquet.tmp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    kept = [tmp_path / name for name in (names[0], *names[2:])]
    assert generation_files([tmp_path]) == kept
    assert generation_files([tmp_path / "rollouts", tmp_path / "metrics.jsonl"]) == [
        *kept[:2],
        tmp_path / "metrics.jsonl",
    ]
    with pytest.raises(DataError, match=r"step_2\.jsonl is named twice"):
        generation_files([tmp_path, tmp_path / "rollouts" / ".." / "rollouts" / "step_2.jsonl"])
