"""The ladder's script: where its recipe points, what it does once, and what it says to type next."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, SftConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import write_json

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

    def train(config: SftConfig) -> bool:
        trained.append(config.data.train.path)
        assert config.evaluation.datasets[0].path == folder / "data" / "heldout.jsonl"
        write_json(config.run.output_dir / "summary.json", {"accuracy_after": 0.1825})
        return True

    monkeypatch.setattr("reasoner_rl.trainer.train.train", train)
    folder = tmp_path / "ladder"
    for _ in range(2):
        script["run_phases"](folder, 3, ["run.steps=25"])
    assert trained == [folder / "data" / "sft.jsonl"], "the warm start was trained again, or not at all"
    assert json.loads((folder / "data" / "report.json").read_text())["settings"]["seed"] == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "the warm start answers 18.2% of the held-out problems"
    command = lines[-1].split()
    assert command[:3] == ["reasoner-rl", "train", "ladder_dapo"]
    dapo = load_recipe(command[2], command[3:])
    assert isinstance(dapo, OnlineConfig)
    assert (dapo.run.seed, dapo.run.output_dir) == (3, folder / "dapo")
    assert dapo.model.path == str(folder / "warm_start" / "final")
    assert all(path.is_file() for path in (dapo.data.train.path, dapo.evaluation.datasets[0].path))


@pytest.mark.parametrize(
    ("summary", "told"),
    [
        ({"accuracy_after": 0.15}, r"^the warm start answers 15\.0% of the held-out problems$"),
        (
            {"accuracy_after": 0.1475},
            r"14\.8% .* has not learnt to work\. .* for another start: bash scripts/ladder\.sh --seed N --out FOLDER$",
        ),
        ({}, "^the warm start was not evaluated$"),
    ],
)
def test_a_start_that_only_guesses_is_told(
    script: Any, tmp_path: Path, summary: dict[str, float], told: str
) -> None:
    write_json(tmp_path / "summary.json", summary)
    assert re.search(told, script["describe_start"](tmp_path))


def test_in_its_usual_place_the_recipes_need_no_paths(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "ladder"
    assert script["train_command"](folder, 0) == "reasoner-rl train ladder_dapo"
    assert script["train_command"](folder, 2) == "reasoner-rl train ladder_dapo run.seed=2"
