"""The figures of a comparison of prompt selection with uniform draws, by hand, and the files that it writes."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from finished_run import write_training

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "selection.py"


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def row(step: int, generated: int, kept: int, length: float) -> dict[str, float]:
    return {
        "step": step,
        "groups/generated": generated,
        "groups/kept": kept,
        "response/length_mean": length,
    }


def accuracy(step: int, share: float) -> dict[str, float]:
    return {"step": step, "eval/heldout/accuracy": share}


def write_run(folder: Path, rows: list[dict[str, float]]) -> None:
    write_training(folder, "quickstart", rows, {})


def test_tokens_to_an_accuracy_are_on_the_line_between_evaluations(bench: dict[str, Any]) -> None:
    curve = ((0, 0.2), (1000, 0.6), (2000, 0.5), (3000, 0.7))
    found = {share: bench["tokens_to"](curve, share) for share in (0.1, 0.2, 0.3, 0.6, 0.65, 0.8)}
    assert found == {
        0.1: 0.0,
        0.2: 0.0,
        0.3: pytest.approx(250),
        0.6: pytest.approx(1000),
        0.65: pytest.approx(2750),
        0.8: None,
    }
    assert bench["tokens_to"]((), 0.5) is None


def test_quarters_of_a_run(bench: dict[str, Any]) -> None:
    assert bench["parts"](44) == [(1, 11), (12, 22), (23, 33), (34, 44)]
    assert bench["parts"](6) == [(1, 2), (3, 3), (4, 4), (5, 6)]
    assert bench["parts"](2) == [(1, 1), (2, 2)]


def test_a_run_is_read_and_compared_seed_by_seed(bench: dict[str, Any], tmp_path: Path) -> None:
    """Two steps; the selected arm generates half as much in the second. A step that was done twice counts once."""
    for seed in (0, 1):
        write_run(
            tmp_path / "a" / f"{seed}",
            [
                *(
                    accuracy(0, 0.0),
                    row(1, 4, 2, 10.0),
                    row(2, 9, 1, 10.0),
                ),  # a step that ended before its checkpoint
                *(row(2, 8, 2, 10.0), accuracy(2, 0.6)),
            ],
        )
        write_run(
            tmp_path / "b" / f"{seed}",
            [accuracy(0, 0.0), row(1, 4, 2, 10.0), row(2, 4, 2, 10.0 + seed), accuracy(2, 0.8)],
        )
    bench["main"](
        [
            *(
                "quickstart",
                "--out",
                str(tmp_path / "out"),
                "--seeds",
                "0",
                "1",
                "--accuracies",
                "0.6",
                "0.7",
            ),
            *("--read", "uniform", str(tmp_path / "a" / "{seed}")),
            *("--read", "selected", str(tmp_path / "b" / "{seed}")),
        ]
    )
    report = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert report["runs"]["uniform"][0] == {
        "seed": 0,
        "generated": [4, 8],
        "kept": [2, 2],
        "tokens": [320, 640],  # 8 responses per prompt
        "curve": [[0, 0.0], [960, 0.6]],
    }
    uniform, selected = report["found"]["uniform"], report["found"]["selected"]
    assert uniform["groups_per_kept"] == {"1-1": [2.0, 2.0], "2-2": [4.0, 4.0]}
    assert selected["groups_per_kept_all"] == [2.0, 2.0]
    assert uniform["tokens_per_kept_all"] == [240.0, 240.0]
    # 0.6 is three quarters of the way to 0.8, at 640 and at 672 tokens.
    assert selected["tokens_to"]["0.6"] == pytest.approx([480, 504])
    assert selected["tokens_to_ratio"]["0.6"] == pytest.approx([2.0, 960 / 504])
    assert selected["tokens_to_ratio_median"] == {"0.6": pytest.approx((2 + 960 / 504) / 2), "0.7": None}
    assert (tmp_path / "out" / "selection.png").read_bytes().startswith(b"\x89PNG")


def test_steps_that_keep_nothing(bench: dict[str, Any]) -> None:
    run = bench["Run"](0, (4, 6), (0, 2), (40, 60), ())
    assert bench["per_kept"](run, 1, 1) == math.inf
    assert bench["per_kept"](run, 1, 2) == 5.0


def test_mistakes_are_named(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench["main"](["quickstart", "--out", str(tmp_path), "--read", "unifrom", str(tmp_path)])
    assert "Did you mean 'unifrom'?" in capsys.readouterr().err
