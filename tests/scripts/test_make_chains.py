"""The quickstart's problems: what is held out stays out of both other files, and impossible wishes are refused."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "make_chains.py"
main = runpy.run_path(str(SCRIPT))["main"]


def make(folder: Path, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    main(["--out", str(folder), *arguments])
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """Without the sign of a zero, which makes no other problem."""
    return [row["problem"].replace("-0", "+0") for row in rows]


def test_no_heldout_problem_is_taught_or_trained_on(tmp_path: Path) -> None:
    files = make(tmp_path, "--terms", "3", "--sft", "2000", "--train", "1500", "--heldout", "1500")
    heldout = set(problems(files["heldout"]))
    assert len(heldout) == 1500
    assert not heldout & set(problems(files["sft"]))
    assert not heldout & set(problems(files["train"]))
    assert {name: len(rows) for name, rows in files.items()} == {"heldout": 1500, "sft": 2000, "train": 1500}


def test_every_answer_is_the_value_modulo_ten_and_the_solution_ends_with_it(tmp_path: Path) -> None:
    files = make(tmp_path, "--sft", "300", "--train", "50", "--heldout", "50")
    for row in [row for rows in files.values() for row in rows]:
        terms = re.findall(r"[+-]?[0-9]", row["problem"])
        assert int(row["answer"]) == sum(map(int, terms)) % 10
        assert row.get("solution", row["answer"]).endswith(row["answer"])


def test_the_lesson_has_the_parts_that_its_card_states(tmp_path: Path) -> None:
    rows = make(tmp_path, "--sft", "2000", "--train", "1", "--heldout", "1")["sft"]
    assert len(rows) == 2000
    assert all(len(re.findall("[0-9]", row["problem"])) == 2 for row in rows[:700])
    assert all(row["solution"].count("=") >= 1 for row in rows[:1600])
    direct = sum("=" not in row["solution"] for row in rows[1600:])
    assert 0.58 < direct / 400 < 0.72


def test_all_possible_problems_can_be_had(tmp_path: Path) -> None:
    files = make(tmp_path, "--terms", "2", "--sft", "10", "--train", "180", "--heldout", "10")
    assert len(set(problems(files["train"]) + problems(files["heldout"]))) == 10 * 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--terms 3",
            "--train 4096 and --heldout 300: 4396 distinct problems wanted, but --terms 3 allows 3610",
        ),
        ("--terms 1", "--terms 1: must be at least 2"),
        ("--sft -4", "--sft -4: must be at least 1"),
        ("--train 0", "--train 0: must be at least 1"),
        ("--heldout -1", "--heldout -1: must be at least 1"),
        ("--facts-share 1.5", "--facts-share 1.5: must be between 0 and 1"),
        ("--mixed-share nan", "--mixed-share nan: must be between 0 and 1"),
        ("--facts-share 0.9", "--facts-share 0.9 and --mixed-share 0.2: must not exceed 1 together"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["--out", str(tmp_path / "out"), *arguments.split()])
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
