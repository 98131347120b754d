"""Reading problems: formats, repetitions, and rows that are malformed."""

from __future__ import annotations

import datetime
import decimal
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reasoner_rl.config.data import DAPO_PROMPT, ColumnMap, DatasetConfig
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.read import read_problems
from reward_fns import countdown

SHARED = Path(os.environ.get("REASONER_RL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def jsonl(folder: Path, rows: Sequence[Any], name: str = "set.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def verl_row(content: str = "What is 1+1?", truth: Any = "2", index: int = 0) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": content, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {"index": index},
    }


def read_error(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_problems(DatasetConfig(path=path, **options))
    return str(caught.value)


# --- formats


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_verl_rows(tmp_path: Path, kind: str) -> None:
    rows = [verl_row("a", "1", 10), verl_row("b", "2", 11)]
    file = tmp_path / f"set.{kind}"
    if kind == "jsonl":
        jsonl(tmp_path, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    problems, report = read_problems(DatasetConfig(path=file, name="train"))
    assert [problem.uid for problem in problems] == ["train/0", "train/1"]
    assert problems[1].messages == ({"role": "user", "content": "b"},)
    assert problems[1].ground_truth == "2"
    assert problems[1].data_source == "math_dapo"
    assert problems[1].extra_info == {"index": 11}
    assert problems[1].solution is None
    assert problems[1].row == 2
    assert str(report) == "2 rows read, 0 duplicates dropped, 2 problems kept"


def test_flat_rows_through_columns_and_template(tmp_path: Path) -> None:
    row = {"question": "1+1 {x}?", "gold": 2, "from": "here", "work": "It is 2.", "level": 3}
    columns = ColumnMap(problem="question", answer="gold", data_source="from", solution="work")
    file = jsonl(tmp_path, [row])
    problems, _ = read_problems(DatasetConfig(path=file, columns=columns, prompt_template="Q: {problem}\nA:"))
    (problem,) = problems
    assert problem.messages == ({"role": "user", "content": "Q: 1+1 {x}?\nA:"},)
    assert (problem.ground_truth, problem.data_source, problem.solution) == ("2", "here", "It is 2.")
    assert problem.extra_info == {"index": 0, "level": 3}


def test_flat_rows_by_default(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"problem": "p", "answer": "a"}])
    (problem,), _ = read_problems(DatasetConfig(path=file, prompt_template="dapo"))
    assert problem.messages[0]["content"] == DAPO_PROMPT.replace("{problem}", "p")
    assert problem.data_source == "set"


def test_flat_parquet(tmp_path: Path) -> None:
    file = tmp_path / "flat.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"problem": "p", "answer": 3}]), file)
    (problem,), _ = read_problems(DatasetConfig(path=file))
    assert (problem.uid, problem.ground_truth) == ("flat/0", "3")


def test_the_format_can_be_said(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [verl_row()])
    assert "no column 'problem'; found data_source, prompt, ability" in read_error(file, format="jsonl")
    file = jsonl(tmp_path, [{"problem": "p", "answer": "a"}])
    assert "no column 'prompt'; found problem, answer" in read_error(file, format="verl")


def test_empty_lines_count_as_lines_but_not_as_rows(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(
        '\ufeff{"problem": "p", "answer": "a"}\n\n{"problem": "q", "answer": "b"}\n\n', encoding="utf-8"
    )
    problems, report = read_problems(DatasetConfig(path=file))
    assert [(problem.uid, problem.row) for problem in problems] == [("set/0", 1), ("set/2", 3)]
    assert report.rows == 2


@pytest.mark.parametrize(
    ("given", "truth"),
    [
        ("x", "x"),
        (7, "7"),
        (0.5, "0.5"),
        (0, "0"),
        pytest.param(int("9" * 400), "9" * 400, id="an integer beyond a float"),
        (" 3 ", " 3 "),
        (["1", 2.5, True], '["1", 2.5, true]'),
        ({"target": 24, "numbers": [1, 2, 3, 4]}, '{"numbers": [1, 2, 3, 4], "target": 24}'),
        ({"é": None}, '{"é": null}'),
    ],
)
def test_ground_truths_become_text(tmp_path: Path, given: Any, truth: str) -> None:
    problems, _ = read_problems(DatasetConfig(path=jsonl(tmp_path, [{"problem": "p", "answer": given}])))
    assert problems[0].ground_truth == truth


def test_ground_truths_of_parquet_become_text(tmp_path: Path) -> None:
    """Rows of a column have one shape there: keys that a row lacks are null."""
    truths = [{"target": 24, "numbers": [1, 2]}, {"target": 5, "names": ["x"]}]
    rows = [verl_row(truth=truth) for truth in truths]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set.parquet")
    problems, _ = read_problems(DatasetConfig(path=tmp_path / "set.parquet"))
    assert [json.loads(problem.ground_truth) for problem in problems] == [
        {"target": 24, "numbers": [1, 2], "names": None},
        {"target": 5, "numbers": None, "names": ["x"]},
    ]


def test_the_truth_that_countdown_documents(tmp_path: Path) -> None:
    truth = {"target": 24, "numbers": [1, 2, 3, 4]}
    file = jsonl(tmp_path, [verl_row(truth=truth), verl_row(truth={"target": 25, "numbers": [1, 2, 3, 4]})])
    problems, report = read_problems(DatasetConfig(path=file))
    right = [countdown.compute_score("", "<answer>4*3*2*1</answer>", p.ground_truth)["acc"] for p in problems]
    assert right == [True, False]
    assert report.conflicting == 1


# --- repetitions, start and limit


def test_repeated_rows_are_dropped_and_conflicting_ones_kept(tmp_path: Path) -> None:
    rows = [
        verl_row("a", "1"),
        verl_row("a", "1"),
        verl_row("b", "2"),
        verl_row("a", "9"),
        verl_row("a", "9"),
    ]
    rows += [verl_row("b", 2), verl_row("a", "8")]
    problems, report = read_problems(DatasetConfig(path=jsonl(tmp_path, rows)))
    assert [(p.uid, p.ground_truth) for p in problems] == [
        ("set/0", "1"),
        ("set/2", "2"),
        ("set/3", "9"),
        ("set/6", "8"),
    ]
    assert (report.rows, report.duplicates, report.kept, report.conflicting) == (7, 3, 4, 1)
    assert str(report) == (
        "7 rows read, 3 duplicates dropped, 4 problems kept, 1 problems with different ground truths (kept)"
    )


def test_the_whole_conversation_tells_problems_apart(tmp_path: Path) -> None:
    one, other = verl_row("a"), verl_row("a")
    other["prompt"].insert(0, {"role": "system", "content": "s"})
    problems, report = read_problems(DatasetConfig(path=jsonl(tmp_path, [one, other])))
    assert (len(problems), report.conflicting) == (2, 0)


def test_repetitions_can_be_kept(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [verl_row("a"), verl_row("a")])
    problems, report = read_problems(DatasetConfig(path=file, deduplicate=False))
    assert [problem.uid for problem in problems] == ["set/0", "set/1"]
    assert report.duplicates == 0


def test_start_and_limit_count_distinct_problems(tmp_path: Path) -> None:
    rows = [verl_row(content) for content in "aabbccddee"]
    file = jsonl(tmp_path, rows)
    problems, report = read_problems(DatasetConfig(path=file, start=1, limit=2))
    assert [problem.uid for problem in problems] == ["set/2", "set/4"]
    assert (report.rows, report.whole_file, report.kept) == (5, False, 2)
    assert str(report).startswith("5 rows read (up to the limit)")
    problems, report = read_problems(DatasetConfig(path=file, start=3, limit=9))
    assert ([problem.uid for problem in problems], report.whole_file) == (["set/6", "set/8"], True)
    assert "no problems are left after start=5; the file has 5" in read_error(file, start=5)


def test_a_long_parquet_is_read_across_batches(tmp_path: Path) -> None:
    rows = [verl_row(str(number % 5000), "1", number) for number in range(10_000)]
    file = tmp_path / "long.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=3000)
    problems, report = read_problems(DatasetConfig(path=file))
    assert (report.rows, report.duplicates, report.kept) == (10_000, 5000, 5000)
    assert (problems[-1].uid, problems[-1].extra_info["index"]) == ("long/4999", 4999)


def test_different_solutions_of_one_problem_are_all_kept(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "1", "work": work} for work in ("a", "b", "a", "c")]
    file = jsonl(tmp_path, rows)
    problems, report = read_problems(DatasetConfig(path=file, columns=ColumnMap(solution="work")))
    assert [problem.solution for problem in problems] == ["a", "b", "c"]
    assert (report.duplicates, report.conflicting, report.variants) == (1, 0, 0)


def test_what_reward_functions_read_tells_tasks_apart(tmp_path: Path) -> None:
    """The same prompt and truth, for instance with other unit tests, another language, another rule."""
    rows: list[dict[str, Any]] = [
        verl_row(index=number) | other
        for number, other in enumerate(
            [
                {},
                {"data_source": "strict"},
                {"extra_info": {"index": 7, "tests": ["f(1) == 2"]}},
                {"extra_info": {"index": 8, "tests": ["f(2) == 3"]}},
                {"extra_info": {"tests": ["f(2) == 3"], "index": 9}},  # the row's number is no difference
                {"ability": "other"},  # nor what no function is given
                {"extra_info": None},
            ]
        )
    ]
    problems, report = read_problems(DatasetConfig(path=jsonl(tmp_path, rows)))
    assert [problem.uid for problem in problems] == ["set/0", "set/1", "set/2", "set/3"]
    assert (report.duplicates, report.conflicting, report.variants) == (3, 0, 3)
    assert str(report) == (
        "7 rows read, 3 duplicates dropped, 4 problems kept, "
        "3 differing from another in data_source or extra_info alone (kept)"
    )
    flat = [{"problem": "p", "answer": "1", "level": level} for level in (1, 2, 1)]
    problems, report = read_problems(DatasetConfig(path=jsonl(tmp_path, flat)))
    assert [problem.extra_info["level"] for problem in problems] == [1, 2]
    assert (report.duplicates, report.variants) == (1, 1)


def test_extra_columns_become_what_json_can_hold(tmp_path: Path) -> None:
    extra = {
        "day": datetime.date(2024, 2, 3),
        "when": datetime.datetime(2024, 2, 3, 4, 5),
        "price": decimal.Decimal("1.50"),
        "raw": b"xy",
        "nan": float("nan"),
        "nested": {"list": [1, float("inf"), decimal.Decimal(2)], "flag": True, "none": None},
    }
    expected = {
        "day": "2024-02-03",
        "when": "2024-02-03 04:05:00",
        "price": "1.50",
        "raw": "b'xy'",
        "nan": None,
        "nested": {"list": [1.0, None, "2"], "flag": True, "none": None},
    }
    extra["nested"]["list"] = [1.0, float("inf")]  # type: ignore[index]
    expected["nested"]["list"] = [1.0, None]  # type: ignore[index]
    for name, row in (
        ("verl", verl_row() | {"extra_info": extra}),
        ("flat", {"problem": "p", "answer": 1} | extra),
    ):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
        (problem,), _ = read_problems(DatasetConfig(path=tmp_path / f"{name}.parquet"))
        found = {key: value for key, value in problem.extra_info.items() if key != "index"}
        assert found == expected
        assert json.loads(json.dumps(found, allow_nan=False)) == found


# --- several files


def test_a_list_of_files_is_one_dataset_and_errors_name_the_right_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    flat = [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": "2"}]
    first = jsonl(tmp_path / "a", flat, "train.jsonl")
    second = jsonl(tmp_path / "b", [flat[1], {"problem": "p", "answer": "9"}], "train.jsonl")
    third = tmp_path / "verl.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([verl_row("r", "3")]), third)
    config = DatasetConfig(path=[first, second, third], prompt_template="Q: {problem}")
    problems, report = read_problems(config, "data.train")
    assert [(problem.uid, problem.messages[0]["content"], problem.row) for problem in problems] == [
        ("a/train.jsonl/0", "Q: p", 1),
        ("a/train.jsonl/1", "Q: q", 2),
        ("b/train.jsonl/1", "Q: p", 2),
        ("verl.parquet/0", "r", 1),
    ]
    assert (report.rows, report.duplicates, report.conflicting) == (5, 1, 1)
    assert report.notes == (
        f"data.train.prompt_template has no effect on {third}, whose rows are in verl's format: they hold the whole "
        "prompt",
    )
    assert config.label == "train+train+verl"
    assert DatasetConfig(path=[first, third]).file_labels == ("train", "verl")
    assert DatasetConfig(path=[first, third], name="x").file_labels == ("x/train", "x/verl")
    assert DatasetConfig(path=[first], name="x").file_labels == ("x",)
    limited, report = read_problems(DatasetConfig(path=[first, second], start=1, limit=1))
    assert ([problem.uid for problem in limited], report.whole_file) == (["a/train.jsonl/1"], False)

    jsonl(tmp_path / "b", [flat[0], {"problem": "q"}], "train.jsonl")
    assert read_error(second.parent / "train.jsonl").startswith(f"{second}, row 2: no column 'answer'")
    with pytest.raises(DataError) as caught:
        read_problems(config)
    assert str(caught.value).startswith(f"{second}, row 2: no column 'answer'")
    with pytest.raises(ValueError, match=r"path names .*train\.jsonl' twice"):
        DatasetConfig(path=[first, first])
    with pytest.raises(ValueError, match="at least 1 item"):
        DatasetConfig(path=[])


# --- where answers and prompts stand


@pytest.mark.parametrize(
    ("form", "column", "truth"),
    [
        ("hash", "1+1=2\n#### 2", "2"),
        ("hash", "#### 1 is wrong\n#### 1,200 ", "1,200"),
        ("boxed", "So \\boxed{1}; no, $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
    ],
)
def test_answers_within_their_column(tmp_path: Path, form: Any, column: str, truth: str) -> None:
    file = jsonl(tmp_path, [{"problem": "p", "answer": column}])
    (problem,), _ = read_problems(DatasetConfig(path=file, columns=ColumnMap(answer_form=form)))
    assert problem.ground_truth == truth


@pytest.mark.parametrize(
    ("form", "column", "message"),
    [
        ("hash", "2", "answer must end in #### and the answer (columns.answer_form is hash); it is '2'"),
        ("hash", "2 ####", "answer must end in ####"),
        ("hash", 2, "answer must be text, and not empty; it is 2"),
        ("boxed", "#### 2", "answer must hold the answer in \\boxed{} (columns.answer_form is boxed)"),
        ("boxed", "\\boxed{2", "answer must hold the answer in"),
    ],
)
def test_columns_without_an_answer_in_them(tmp_path: Path, form: Any, column: Any, message: str) -> None:
    file = jsonl(tmp_path, [{"problem": "p", "answer": column}])
    assert f"row 1: {message}" in read_error(file, columns=ColumnMap(answer_form=form))


def test_several_columns_ids_and_a_choice_of_the_others(tmp_path: Path) -> None:
    row = {"id": "x-7", "body": "One.", "ask": "How many?", "answer": "1", "level": 3, "long": "text"}
    columns = ColumnMap(problem=["body", "ask"], id="id", extra=["level"])
    file = jsonl(tmp_path, [row, row | {"id": "x-8", "long": "other"}])
    (problem,), report = read_problems(DatasetConfig(path=file, columns=columns, data_source="gsm8k"))
    assert problem.messages[0]["content"] == "One. How many?"
    assert problem.extra_info == {"index": "x-7", "level": 3}
    assert (problem.data_source, report.duplicates) == ("gsm8k", 1)
    assert "no column 'lvl'" in read_error(file, columns=ColumnMap(problem="body", extra=["lvl"]))
    assert "id must be text or a whole number, and not empty; it is ' '" in read_error(
        jsonl(tmp_path, [row | {"id": " "}]), columns=columns
    )
    with pytest.raises(ValueError, match=r"data_source 'a' and columns\.data_source 'b' exclude each other"):
        DatasetConfig(path=file, data_source="a", columns=ColumnMap(data_source="b"))


def test_messages_in_a_flat_row_are_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": verl_row("1+1?")["prompt"], "answer": "2"}
    columns = ColumnMap(problem="prompt")
    file = jsonl(tmp_path, [row])
    (problem,), _ = read_problems(DatasetConfig(path=file, columns=columns, prompt_template="dapo"))
    assert problem.messages == ({"content": "1+1?", "role": "user"},)
    file = jsonl(tmp_path, [row, row | {"prompt": [{"role": "user"}]}])
    assert "row 2: no column 'prompt.0.content'" in read_error(file, columns=columns)


# --- mistakes


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"problem": "p"}, {"problem": "q", "answer": "1"}, [1]])
    with file.open("ab") as end:
        end.write(b'{"problem": "\xff"}\n{\n')
    problems, report = read_problems(DatasetConfig(path=file, on_bad_row="skip"))
    assert [problem.uid for problem in problems] == ["set/1"]
    assert (report.rows, report.kept, len(report.bad)) == (5, 1, 4)
    assert [line.partition(": ")[0] for line in report.bad] == [f"{file}, row {n}" for n in (1, 3, 4, 5)]
    assert str(report).startswith(
        f"5 rows read, 4 bad rows skipped (the first: {file}, row 1: no column 'answer'"
    )
    file = jsonl(tmp_path, [{"problem": "p"}, {"problem": "q"}])
    assert f"{file}: no row of 2 can be used; the first: {file}, row 1: no column" in read_error(
        file, on_bad_row="skip"
    )
    (tmp_path / "empty.jsonl").touch()
    assert "the file holds no rows" in read_error(tmp_path / "empty.jsonl", on_bad_row="skip")


def test_an_id_is_of_one_problem(tmp_path: Path) -> None:
    """A problem may be there again, with the same ground truth or another."""
    rows = [(7, "1+1?", "2"), (7, "1+1?", "2"), (7, "1+1?", "3"), (8, "2+2?", "4")]
    columns = {"id": "key"}
    names = ("key", "problem", "answer")
    file = jsonl(tmp_path, [dict(zip(names, row, strict=True)) for row in rows])
    assert len(read_problems(DatasetConfig(path=file, columns=columns))[0]) == 3
    file = jsonl(tmp_path, [dict(zip(names, row, strict=True)) for row in [*rows, (8, "3+3?", "6")]])
    assert "row 5: the id 8 is that of another problem, in set.jsonl, row 4" in read_error(
        file, columns=columns
    )
    _, report = read_problems(DatasetConfig(path=file, columns=columns, on_bad_row="skip"))
    assert (report.kept, len(report.bad)) == (3, 1)


def test_a_missing_column_names_the_key_to_type(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"question": "p", "answer": "a"}])
    with pytest.raises(
        DataError, match=r"found question, answer\. Say which column it is: data\.train\.columns\.problem"
    ):
        read_problems(DatasetConfig(path=file), "data.train")


def test_a_prompt_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"problem": "x" * 10_000_000, "answer": "1"}])
    (problem,), _ = read_problems(DatasetConfig(path=file))
    assert len(problem.messages[0]["content"]) == 10_000_000


def test_a_parquet_file_damaged_in_the_middle_says_after_which_row(tmp_path: Path) -> None:
    file, rows = tmp_path / "long.parquet", [verl_row(f"{n} {'x' * 40}", "1", n) for n in range(9000)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), file, row_group_size=4096, compression="gzip", use_dictionary=False
    )
    group = pyarrow.parquet.ParquetFile(file).metadata.row_group(2)
    data = bytearray(file.read_bytes())
    for column in range(group.num_columns):
        start = group.column(column).data_page_offset
        data[start + 30 : start + 60] = bytes(30)
    file.write_bytes(data)
    assert "long.parquet: not a readable parquet file after row 8192: " in read_error(file)


def change(**columns: Any) -> dict[str, Any]:
    return verl_row() | columns


MALFORMED: list[tuple[Any, str]] = [
    (change(prompt="text"), "prompt must be a list of messages with role and content; it is 'text'"),
    (change(prompt=[]), "prompt must be a list of messages with role and content; it is []"),
    (change(prompt=["text"]), "prompt.0 must be a mapping of columns; it is 'text'"),
    (change(prompt=[{"role": "user"}]), "no column 'prompt.0.content'; found role"),
    (
        change(prompt=[{"role": "user", "content": 3}]),
        "prompt.0.content must be text, and not empty; it is 3",
    ),
    (change(reward_model={}), "no column 'reward_model.ground_truth'; found none"),
    (
        change(reward_model={"ground_truht": "1"}),
        "no column 'reward_model.ground_truth'; found ground_truht. Did you mean 'ground_truht'?",
    ),
    (change(reward_model=None), "reward_model must be a mapping"),
    (
        change(reward_model={"ground_truth": []}),
        "reward_model.ground_truth must be text, a number, a list or a mapping; neither empty, nor with NaN or "
        "infinities; it is []",
    ),
    (change(reward_model={"ground_truth": {"a": float("inf")}}), "it is {'a': inf}"),
    (change(reward_model={"ground_truth": None}), "it is None"),
    (change(reward_model={"ground_truth": True}), "it is True"),
    (change(reward_model={"ground_truth": float("nan")}), "it is nan"),
    (change(reward_model={"ground_truth": " "}), "it is ' '"),
    (change(data_source=None), "data_source must be text, and not empty; it is None"),
    (change(extra_info=[1]), "extra_info must be a mapping; it is [1]"),
    ([1], "the row must be a mapping of columns; it is [1]"),
    (verl_row(content="a\ud800"), "prompt.0.content must be text that UTF-8 can hold"),
    (verl_row(truth="\ud800"), "reward_model.ground_truth must be text that UTF-8 can hold"),
    (verl_row(truth=["\ud800"]), "reward_model.ground_truth must be text that UTF-8 can hold"),
]


@pytest.mark.parametrize(("row", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_rows_name_file_row_column_and_value(tmp_path: Path, row: Any, message: str) -> None:
    file = jsonl(tmp_path, [verl_row(), row])
    found = read_error(file, format="verl")
    assert found.startswith(f"{file}, row 2: ")
    assert message in found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "p", "answer": "a"}, "no column 'problem'; found question, answer."),
        ({"problem": "", "answer": "a"}, "problem must be text, and not empty; it is ''"),
        (
            {"problem": "p", "answer": {}},
            "answer must be text, a number, a list or a mapping; neither empty, nor with NaN or infinities; it is {}",
        ),
        ({"problem": "p", "answer": "a", "from": 3}, "from must be text, and not empty; it is 3"),
    ],
)
def test_malformed_flat_rows(tmp_path: Path, row: Any, message: str) -> None:
    file = jsonl(tmp_path, [{"problem": "p", "answer": "a", "from": "here"}, row])
    assert f"{file}, row 2: {message}" in read_error(file, columns=ColumnMap(data_source="from"))


def test_a_missing_solution_column(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"problem": "p", "answer": "a", "solutions": "s"}])
    found = read_error(file, columns=ColumnMap(solution="solution"))
    assert found.endswith(
        "row 1: no column 'solution'; found problem, answer, solutions. Did you mean 'solutions'? "
        "The dataset's key columns.solution says which column it is"
    )


def test_long_values_are_shortened(tmp_path: Path) -> None:
    assert len(read_error(jsonl(tmp_path, [change(prompt="x" * 1000)]))) < len(str(tmp_path)) + 200


def test_lines_that_are_not_json(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"problem": "p", "answer": "a"}\n{"problem": "p",\n')
    assert f"{file}, row 2: not valid JSON: " in read_error(file)
    assert read_error(file).endswith("at column 17")  # the end of the line
    file.write_bytes(b'{"problem": "\xff"}\n')
    assert "cannot be read" in read_error(file)


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "[" * 100_000 + "]" * 100_000, "[" * 900 + "]" * 900],
    ids=["digits", "nested", "deep"],
)
def test_rows_that_no_reader_takes_are_named(tmp_path: Path, value: str) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"problem": "p", "answer": "a"}\n{"problem": "q", "answer": "b", "x": ' + value + "}\n")
    assert read_error(file).startswith(f"{file}, row 2: ")
    file.write_text('{"problem": "p", "answer": "a"}\n{"problem": ' + value + ', "answer": "b"}\n')
    assert read_error(file).startswith(f"{file}, row 2: ")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    jsonl(tmp_path, [verl_row()], "train.jsonl")
    assert read_error(tmp_path / "trian.jsonl").endswith(
        "trian.jsonl does not exist. Did you mean 'train.jsonl'?"
    )
    assert read_error(tmp_path / "nowhere" / "x.jsonl").endswith("x.jsonl does not exist.")
    (tmp_path / "set.csv").write_text("a,b\n")
    assert "must end in .parquet or .jsonl" in read_error(tmp_path / "set.csv")
    (tmp_path / "set.parquet").write_text("no parquet")
    assert "set.parquet: not a readable parquet file" in read_error(tmp_path / "set.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "the file holds no rows" in read_error(tmp_path / "empty.jsonl")


# --- published files, where they are at hand


def shared(name: str) -> Path:
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{name} is not at hand; set REASONER_RL_DATA to a folder that holds it")
    return file


def test_aime_2024_is_thirty_problems() -> None:
    problems, report = read_problems(DatasetConfig(path=shared("aime-2024.parquet")))
    assert (report.rows, report.duplicates, report.kept, report.conflicting) == (960, 930, 30, 0)
    assert len({problem.messages[0]["content"] for problem in problems}) == 30
    assert all(problem.ground_truth.isdigit() and problem.data_source == "math_dapo" for problem in problems)


def test_the_sample_of_dapo_math() -> None:
    problems, report = read_problems(DatasetConfig(path=shared("dapo_math_17k_sample.jsonl")))
    assert (report.rows, report.kept) == (24, 24)
    assert problems[0].ground_truth == "113"
    start, end = DAPO_PROMPT.split("{problem}")
    assert all(
        p.messages[0]["content"].startswith(start) and p.messages[0]["content"].endswith(end)
        for p in problems
    )


def test_gsm8k_with_solutions() -> None:
    config = DatasetConfig(
        path=shared("gsm8k_test_first1000.jsonl"), columns=ColumnMap(solution="solution"), limit=50
    )
    problems, report = read_problems(config)
    assert (len(problems), report.whole_file) == (50, False)
    assert all(problem.solution for problem in problems)
