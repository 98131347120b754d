"""`reasoner-rl data prepare` as a user meets it: what it writes, and what it says of bad data."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from reasoner_rl import cli
from reasoner_rl.commands import prepare_data
from reasoner_rl.config.data import DAPO_PROMPT, DatasetConfig
from reasoner_rl.datasets.catalog import CATALOG
from reasoner_rl.datasets.hub import fetch
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.read import read_problems

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("REASONER_RL_DATA", ROOT.parent / "shared" / "data"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A function that runs the command in this process, in an empty folder: status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def command(
        *arguments: object, script: Path | None = None, name: str = "prepare"
    ) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        words = [] if script else ["data", name]
        monkeypatch.setattr(sys, "argv", ["reasoner-rl", *words, *map(str, arguments)])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
            runpy.run_path(str(script)) if script else cli.main()
        return int(exit.value.code or 0), out.getvalue(), err.getvalue()

    return command


def verl_row(number: int, truth: str | None = None, content: str | None = None) -> dict[str, Any]:
    """A row as the hub's DAPO-Math-17K has it."""
    problem = content or f"What is the {number}th number?"
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": DAPO_PROMPT.replace("{problem}", problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": truth or str(number), "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"id-{number}"},
    }


def parquet(file: Path, rows: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=1000)
    return file


def jsonl(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def contents(file: Path) -> list[str]:
    return [one.messages[-1]["content"] for one in read_problems(DatasetConfig(path=file))[0]]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_hubs_rows_become_the_problems_that_they_repeat(run: Run, tmp_path: Path) -> None:
    rows = [verl_row(number) for number in range(60)]
    rows += [verl_row(3, truth="4"), verl_row(100, truth="}")]  # another truth; one that no answer can have
    repeated = [row for row in rows for _ in range(80)]
    random.Random(0).shuffle(repeated)
    source = parquet(tmp_path / "hub.parquet", repeated)
    script = ROOT / "data" / "prepare_dapo_math_17k.py"
    status, out, err = run("--local-path", source, "--out", "made", script=script)
    assert (status, err) == (0, "")
    assert "4,960 rows read, 4,898 duplicates dropped, 62 problems kept, 1 problems with different" in out
    assert "1 ground truths are not taken as their own answer by reward_fns:compute_score (kept)" in out
    made = tmp_path / "made/dapo-math-17k.parquet"
    assert sorted(contents(made)) == sorted(row["prompt"][0]["content"] for row in rows)
    first = pyarrow.parquet.read_table(made).to_pylist()[0]
    assert first["reward_model"].keys() == {"ground_truth", "style"}
    assert first["extra_info"]["index"].startswith("id-")

    report = json.loads((tmp_path / "made/dapo-math-17k.json").read_text())
    assert report["counts"]["read"] == 4960
    assert report["counts"]["repetitions dropped"] == 4898
    assert report["counts"]["written"] == report["written"]["problems"]["rows"] == 62
    assert report["origin"]["files"][0]["sha256"] == sha256(source)
    assert report["written"]["problems"]["sha256"] == sha256(made)
    assert report["origin"]["licence"] == "Apache-2.0"
    assert report["command"].startswith("reasoner-rl data prepare dapo-math-17k --local-path")
    (refused,) = report["refused"]
    row = next(number for number, row in enumerate(repeated, 1) if row["extra_info"]["index"] == "id-100")
    assert refused == {"where": f"{source}, row {row}", "what": "'}' is unparsed"}
    (conflict,) = report["conflicts"]
    assert sorted(conflict["what"].removeprefix("ground truths ").split(", ")) == ["'3'", "'4'"]
    assert report["answer_types"] == {"integer": 61, "expression": 1}
    card = (tmp_path / "made/dapo-math-17k.md").read_text()
    for text in (
        sha256(made),
        "arXiv:2503.14476",
        "| repetitions dropped | 4,898 |",
        f"row {row}: '}}' is unparsed",
    ):
        assert text in card

    status, _, err = run("dapo-math-17k", "--local-path", source, "--out", "made")
    assert status == 2
    assert "dapo-math-17k.parquet is there; --overwrite replaces it" in err
    given = ("--overwrite", "--drop-refused-golds", "--template", "none")
    assert run("dapo-math-17k", "--local-path", source, "--out", "made", *given)[0] == 0
    assert "What is the 7th number?" in contents(made)
    assert len(contents(made)) == 61


def test_files_of_other_shapes_are_compared_and_split(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("datasketch", reason="the extra data is not installed")
    names = ["apples", "pears", "plums", "nuts", "figs", "dates", "limes", "kiwis"]
    rows = [
        {
            "question": f"Story {name} {name}s: {n} and {n + 1} {name} in a box?",
            "answer": f"{n}+{n + 1}\n#### {2 * n + 1}",
        }
        for name in names
        for n in (3, 9)
    ]
    rows.append({"question": "What is $2 + 2$?", "answer": "#### 4"})
    source = jsonl(tmp_path / "own.jsonl", rows)
    held = jsonl(tmp_path / "held.jsonl", [{"problem": "what is \\(2+2\\)?", "answer": "4"}])
    given = ("--data-source", "gsm8k", "--template", "dapo", "--validation", 4, "--against", held)
    status, out, err = run(source, "--out", "made", *given, "--drop-contaminated")
    assert (status, err) == (0, ""), err
    assert "own: columns problem: question, answer: answer (behind ####); 17 rows read" in out
    assert "exact: row 17: What is $2 + 2$?" in out
    (line,) = (line for line in out.splitlines() if line.count("│") == 10)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == list("11000111")
    train = read_problems(DatasetConfig(path=tmp_path / "made/own.parquet"))[0]
    validation = contents(tmp_path / "made/own_validation.parquet")
    assert (len(train), len(validation)) == (12, 4)
    assert {problem.data_source for problem in train} == {"gsm8k"}
    assert train[0].messages[0]["content"].startswith(DAPO_PROMPT[:40])
    sides = [{name for name in names if any(name in text for text in texts)} for texts in (
        validation, [problem.messages[0]["content"] for problem in train])]  # fmt: skip
    assert len(sides[0]) == 2, "the same story with other numbers is on the same side"
    assert not sides[0] & sides[1]
    report = json.loads((tmp_path / "made/own.json").read_text())
    assert report["compared"][0]["evaluation"] == {"exact": 1, "numbers": 0, "ngram": 0, "near": 0}
    assert report["counts"]["overlapping with evaluation sets, dropped"] == 1
    assert report["compared"][0]["pairs"] == [
        {"row": 17, "evaluation_row": 1, "kind": "exact", "similarity": None}
    ]
    status, _, err = run(source, "--out", "made", "--data-source", "gsm8k", "--overwrite")
    assert (status, "own_validation.parquet would not be written by this call" in err) == (2, True), err
    assert len(contents(tmp_path / "made/own_validation.parquet")) == 4
    status, out, err = run(source, "--against", held, "--out", "pairs.json", name="contamination")
    assert (status, err) == (0, "")
    assert [cell.strip() for cell in out.splitlines()[-2].split("│")[2:-1]] == list("11000111")
    assert json.loads((tmp_path / "pairs.json").read_text()) == [
        report["compared"][0] | {"path": str(held), "train": 1}
    ]
    assert "needs --against FILE" in run(source, name="contamination")[2]


def test_several_files_are_one_set_and_tokens_are_counted(
    run: Run, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    rows = [{"problem": f"How many are {n} and {n}?", "answer": str(2 * n)} for n in range(1, 4)]
    files = [jsonl(tmp_path / "a.jsonl", rows[:2]), jsonl(tmp_path / "b.jsonl", [rows[0], rows[2]])]
    given = [flag for file in files for flag in ("--local-path", file)]
    status, out, err = run("svamp", *given, "--out", "made", "--tokenizer", tiny_checkpoint("qwen2-tied"))
    assert (status, err) == (0, "")
    assert "The publisher's set has 1,000 problems; these files gave 3." in out
    problems, _ = read_problems(DatasetConfig(path=tmp_path / "made/svamp.parquet"))
    assert [problem.extra_info["index"] for problem in problems] == ["a/0", "a/1", "b/1"]
    assert {problem.data_source for problem in problems} == {"svamp"}
    lengths = json.loads((tmp_path / "made/svamp.json").read_text())["lengths"]
    assert [one["unit"].split(" ")[0] for one in lengths] == ["characters", "words", "tokens"]
    assert (lengths[0]["least"], lengths[1]["most"]) == (len("How many are 1 and 1?"), 6)
    jsonl(files[1], [{"question": "4 and 4?", "answer": "8"}])
    status, _, err = run("svamp", *given, "--out", "made", "--overwrite")
    assert (status, "have different columns" in err) == (2, True), err


GOOD = {"id": 1, "problem": "1+1?", "answer": "2"}
BAD_ROWS: list[tuple[Any, str]] = [
    ({"id": 2, "problem": "2+2?"}, "no column 'answer'; found id, problem"),
    ({"id": 3, "problem": "2+2?", "answer": None}, "answer must be text, a number, a list or a mapping"),
    ({"id": 3, "problem": "2+2?", "answer": True}, "it is True"),
    ({"id": 4, "problem": "", "answer": "4"}, "problem must be text, and not empty"),
    (
        {"id": 5, "problem": "x" * 10_000_000, "answer": "4"},
        "the prompt has 10,000,000 characters, and --max-characters is 100,000",
    ),
    ({"id": 1, "problem": "3+3?", "answer": "6"}, "the id 1 is that of another problem, in own.jsonl, row 1"),
    ("not a mapping", "the row must be a mapping of columns"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_an_error_with_its_number(run: Run, tmp_path: Path, row: Any, message: str) -> None:
    jsonl(tmp_path / "own.jsonl", [GOOD, row])
    status, _, err = run("own.jsonl", "--out", "made")
    assert status == 2
    assert err.startswith("error: own.jsonl, row 2: ")
    assert message in err
    assert len(err) < 500
    assert not (tmp_path / "made").exists()


def test_bad_rows_can_be_skipped_and_are_listed(run: Run, tmp_path: Path) -> None:
    jsonl(tmp_path / "own.jsonl", [GOOD, *(row for row, _ in BAD_ROWS), {**GOOD, "id": 8, "problem": "8?"}])
    with (tmp_path / "own.jsonl").open("ab") as file:
        file.write(b'{"problem": \n{"problem": "\xff"}\n')
    status, _, err = run("own.jsonl", "--out", "made", "--on-bad-row", "skip")
    assert (status, err) == (0, ""), err
    assert contents(tmp_path / "made/own.parquet") == ["1+1?", "8?"]
    bad = json.loads((tmp_path / "made/own.json").read_text())["bad"]
    messages = [message for _, message in BAD_ROWS] + ["not valid JSON", "cannot be read: 'utf-8' codec"]
    rows = sorted((int(line.partition("row ")[2].partition(":")[0]), line) for line in bad)
    assert [number for number, _ in rows] == [2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert all(message in line for message, (_, line) in zip(messages, rows, strict=True))
    card = (tmp_path / "made/own.md").read_text()
    assert "| bad, skipped | 9 |" in card
    assert "## Rows that could not be used\n\n9:" in card


def test_columns_that_are_given_are_read_where_the_rows_are_also_in_verls_format(
    run: Run, tmp_path: Path
) -> None:
    jsonl(tmp_path / "both.jsonl", [verl_row(1) | {"plain": "1+1?", "key": "2"}])
    given = ("--problem-column", "plain", "--answer-column", "key")
    status, out, err = run("both.jsonl", "--out", "made", *given)
    assert (status, err, "no effect" in out) == (0, "", False), (out, err)
    (problem,), _ = read_problems(DatasetConfig(path=tmp_path / "made/both.parquet"))
    assert (problem.messages[0]["content"], problem.ground_truth) == ("1+1?", "2")


def test_files_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    whole = parquet(
        tmp_path / "whole.parquet", [verl_row(n, content=f"{n}? " + "x" * 50) for n in range(6000)]
    )
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    (tmp_path / "damaged.parquet").write_bytes(data)
    (tmp_path / "cut.parquet").write_bytes(data[:1000])
    (tmp_path / "empty.jsonl").write_text("\n")
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(whole).slice(0, 0), tmp_path / "none.parquet")
    for name, message in {
        "damaged.parquet": "not a readable parquet file",
        "cut.parquet": "not a readable parquet file",
        "empty.jsonl": "the file holds no rows",
        "none.parquet": "the file holds no rows",
        "missing.jsonl": "does not exist",
        "gsm9k": "none of the known sets: dapo-math-17k, aime-2024",
        "owner/name": "--file 'data/train-*.parquet'",
    }.items():
        status, _, err = run(name, "--out", "made", "--on-bad-row", "skip")
        assert (status, message in err) == (2, True), err
    assert "Did you mean 'gsm8k'?" in run("gsm9k", "--out", "made")[2]
    for flags, message in {
        ("--id-column", "x"): "--id-column has no effect on whole.parquet, whose rows are in verl's format",
        (
            "--problem-column",
            "prmpt",
        ): "--problem-column prmpt: there is no such column; found data_source, prompt,",
        ("--split", "test"): "--split test has no effect",
        ("--revision", "main"): "--revision main has no effect",
        ("--drop-contaminated",): "--drop-contaminated has no effect without --against",
        ("--name", "a/b"): "must be the name of files",
    }.items():
        status, _, err = run("whole.parquet", "--out", "made", *flags)
        assert (status, message in err) == (2, True), err
    assert not (tmp_path / "made").exists()


def test_the_hubs_cache_is_read_without_a_network_and_missed_files_are_told(tmp_path: Path) -> None:
    """In a process of its own, with the cache laid out as huggingface_hub does: it reads its settings once."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "home/hub/datasets--openai--gsm8k"
    snapshot = repository / "snapshots" / commit / "main"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    (repository / "blobs").mkdir()
    parquet(repository / "blobs/abc", [{"question": "1+1?", "answer": "1+1=2\n#### 2"}])
    (snapshot / "test-00000-of-00001.parquet").symlink_to("../../../blobs/abc")
    (snapshot / "train-00000-of-00002.parquet").symlink_to("../../../blobs/abc")
    code = (
        "from pathlib import Path; from reasoner_rl.commands.data_source import find_source\n"
        "from reasoner_rl.errors import DataError\n"
        "found = find_source('gsm8k', split='test'); print(found.origin.commit, found.stem, *found.paths)\n"
        "for name, split in (('gsm8k', 'train'), ('math-500', None)):\n"
        "    try: find_source(name, split=split)\n"
        "    except DataError as error: print(error)\n"
    )
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    _, found, _, train, _, other = done.stdout.splitlines()
    assert found == f"{commit} gsm8k-test {snapshot / 'test-00000-of-00001.parquet'}"
    assert "1 of the files main/train-*.parquet are missing" in train
    assert "--local-path FILE" in train
    for part in (
        "test.jsonl of the hub's data set HuggingFaceH4/MATH-500 cannot be fetched",
        "HF_HUB_OFFLINE is set",
        f"it is not in the cache {tmp_path / 'home/hub'}",
        "hf download --repo-type dataset HuggingFaceH4/MATH-500 --include 'test.jsonl'",
        "--local-path FILE",
    ):
        assert part in other


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        (tmp_path / "data").mkdir(exist_ok=True)
        for file in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"):
            (tmp_path / "data" / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = fetch("a/b", "data/train-*.parquet", "v1")
    assert [path.name for path in found.paths] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert found.commit == tmp_path.name
    options = {"repo_type": "dataset", "allow_patterns": ["data/train-*.parquet"], "revision": "v1"}
    assert asked == [("a/b", options)]
    with pytest.raises(
        DataError, match=r"no file fits data/valid\*; .* holds data/test\.parquet, data/train-"
    ):
        fetch("a/b", "data/valid*")

    def refused(name: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(DataError, match=r"\(LocalEntryNotFoundError: Cannot reach the hub\.\)"):
        fetch("a/b", "data/*")


def test_every_known_set_has_its_script(tmp_path: Path) -> None:
    for name in CATALOG:
        script = ROOT / "data" / f"prepare_{name.replace('-', '_')}.py"
        assert script.read_text().endswith(f'\nmain("data", "prepare", "{name}")\n'), script
    source = jsonl(tmp_path / "part.jsonl", [{"question": "1+1?", "answer": "1+1=2\n#### 2"}])
    given = ["--split", "test", "--local-path", source, "--out", tmp_path / "made"]
    done = subprocess.run(
        [sys.executable, ROOT / "data" / "prepare_gsm8k.py", *given],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/made/gsm8k-test.parquet: 1 problems\n" in done.stdout
    command = json.loads((tmp_path / "made/gsm8k-test.json").read_text())["command"]
    assert command.startswith("reasoner-rl data prepare gsm8k --split test --local-path ")


def test_aime_2024_as_published(run: Run, tmp_path: Path) -> None:
    source = SHARED / "aime-2024.parquet"
    if not source.is_file():
        pytest.skip("aime-2024.parquet is not at hand; set REASONER_RL_DATA to a folder that holds it")
    assert run("--local-path", source, "--out", "made", script=ROOT / "data" / "prepare_aime_2024.py")[0] == 0
    problems, report = read_problems(DatasetConfig(path=tmp_path / "made/aime-2024.parquet"))
    assert (report.rows, report.kept) == (30, 30)
    assert all(one.extra_info["raw_problem"] in one.messages[0]["content"] for one in problems)
    made = json.loads((tmp_path / "made/aime-2024.json").read_text())
    assert (made["counts"]["read"], made["expected"], made["refused"]) == (960, 30, [])


def test_a_disk_that_fills_between_two_files_leaves_neither(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command works when there is room, without --overwrite."""
    rows = jsonl(tmp_path / "own.jsonl", [{"problem": f"{n} plus 1?", "answer": n + 1} for n in range(3)])
    command = (rows, "--out", "out", "--template", "dapo")

    def full(path: Path, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(prepare_data, "write_json", full)
        status, _, said = run(*command)
    assert (status, said) == (2, "error: --out=out: out/own.json: No space left on device\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert run(*command)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["own.json", "own.md", "own.parquet"]
