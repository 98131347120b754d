"""The quickstart's own logic: what it keeps, what it moves aside, what it says. The run itself takes minutes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "quickstart.py"
SETTINGS = {"seed": 0, "overrides": ["run.steps=2"]}


@pytest.fixture(scope="module")
def script() -> Any:
    """The script's names."""
    return runpy.run_path(str(SCRIPT))


def test_help_installs_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"REASONER_RL_VENV": str(tmp_path / "venv")}
    result = subprocess.run(
        ["bash", SCRIPT.with_suffix(".sh"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert "[--seed N]" in result.stdout
    assert "set -" not in result.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [("run.stepz=3", "Did you mean 'run.steps'?"), ("run.steps", "must read key.path=value")],
)
def test_a_mistake_is_told_before_anything_is_done(override: str, said: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    command = [sys.executable, SCRIPT, "--out", out, override]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "an earlier run was moved aside for nothing"


def test_recipes_point_into_the_folder(script: Any, tmp_path: Path) -> None:
    warm_start, dapo = script["load_recipes"](tmp_path, 3, ["run.steps=2", "training.optimizer.lr=1e-5"])
    assert warm_start.data.train.path == tmp_path / "data" / "sft.jsonl"
    assert (
        dapo.model.path == str(warm_start.run.output_dir / "final") == str(tmp_path / "warm_start" / "final")
    )
    assert dapo.evaluation.datasets[0].path == tmp_path / "data" / "heldout.jsonl"
    assert (warm_start.run.seed, dapo.run.seed, dapo.run.steps, dapo.training.optimizer.lr) == (3, 3, 2, 1e-5)


def test_only_an_unfinished_run_with_the_same_settings_is_kept(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, make_room = tmp_path / "quickstart", script["make_room"]
    make_room(folder, SETTINGS)
    assert capsys.readouterr().out == ""
    script["Quickstart"](folder, SETTINGS)
    make_room(folder, SETTINGS)
    assert "resuming the unfinished run" in capsys.readouterr().out
    make_room(folder, SETTINGS | {"seed": 1})
    assert not folder.exists()
    assert (tmp_path / "quickstart.1" / "phases.json").exists()
    script["Quickstart"](folder, SETTINGS)
    (folder / "summary.json").write_text("{}")
    make_room(folder, SETTINGS)
    assert not folder.exists()
    assert f"moved to {tmp_path / 'quickstart.2'}" in capsys.readouterr().out


def test_a_phase_is_done_once_and_its_time_is_kept(script: Any, tmp_path: Path) -> None:
    done: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    run = script["Quickstart"](tmp_path, SETTINGS)
    run.phase("one", lambda: done.append("one"))
    with pytest.raises(KeyboardInterrupt):
        run.phase("two", interrupted)
    run = script["Quickstart"](tmp_path, SETTINGS)
    for name in ("one", "two"):
        run.phase(name, lambda name=name: done.append(name))
    assert done == ["one", "two"]
    assert json.loads((tmp_path / "phases.json").read_text())["seconds"].keys() == {"one", "two"}


def test_the_summary(script: Any, tmp_path: Path) -> None:
    for folder in ("warm_start", "rl"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "curves.png").write_text(folder)
    results = {"accuracy_before": 0.2, "accuracy_after": 0.9, "steps": 2, "seconds": 50.0, "seed": 0}
    (tmp_path / "rl" / "summary.json").write_text(json.dumps(results))
    run = script["Quickstart"](tmp_path, SETTINGS)
    run.seconds = {"problems and model": 1.0, "warm start": 30.0, "DAPO": 12.5}  # DAPO: since it resumed
    summary = run.summarise(tmp_path / "rl")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["accuracy_before"], summary["accuracy_after"], summary["steps"]) == (0.2, 0.9, 2)
    assert summary["response_tokens_after"] is None
    assert (summary["seconds_rl"], summary["seconds_total"]) == (50.0, 81.0)
    assert (tmp_path / "learning_curves.png").read_text() == "rl"
    assert (tmp_path / "warm_start_curves.png").read_text() == "warm_start"


def test_an_interruption_says_how_to_resume(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(config: Any) -> None:
        return None

    monkeypatch.setattr("reasoner_rl.trainer.train.train", stopped)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exit:
        script["main"]()
    assert exit.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "phases.json").read_text())["seconds"].keys() == {
        "problems and model"
    }
