"""The ladder's script: where its recipe points, what it does once, and what it says to type next."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ladder.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's names."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


def test_help_installs_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", SCRIPT.with_suffix(".sh"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"REASONER_RL_VENV": str(tmp_path / "venv")},
    )
    assert "reasoner-rl train ladder_dapo" in result.stdout
    assert "set -" not in result.stdout
    assert not (tmp_path / "venv").exists()


def test_a_mistake_is_told_before_anything_is_done(script: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'run\.steps'\?"):
        script["run_phases"](tmp_path / "ladder", 0, ["run.stepz=3"])
    assert not list(tmp_path.iterdir())


def test_it_ends_with_a_command_that_trains_from_the_warm_start(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real phases with small settings, twice; the warm start itself is replaced, for it takes minutes."""
    trained: list[Path] = []
    monkeypatch.setattr(
        "reasoner_rl.trainer.train.train", lambda config: trained.append(config.data.train.path) or 1
    )
    folder = tmp_path / "ladder"
    for _ in range(2):
        script["run_phases"](folder, 3, ["run.steps=25"])
    assert trained == [folder / "data" / "sft.jsonl"], "the warm start was trained again, or not at all"
    assert json.loads((folder / "data" / "report.json").read_text())["settings"]["seed"] == 3
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert command[:3] == ["reasoner-rl", "train", "ladder_dapo"]
    dapo = load_recipe(command[2], command[3:])
    assert isinstance(dapo, OnlineConfig)
    assert (dapo.run.seed, dapo.run.output_dir) == (3, folder / "dapo")
    assert dapo.model.path == str(folder / "warm_start" / "final")
    assert all(path.is_file() for path in (dapo.data.train.path, dapo.evaluation.datasets[0].path))


def test_in_its_usual_place_the_recipes_need_no_paths(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "ladder"
    assert script["train_command"](folder, 0) == "reasoner-rl train ladder_dapo"
    assert script["train_command"](folder, 2) == "reasoner-rl train ladder_dapo run.seed=2"
