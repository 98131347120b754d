"""Supervised runs: the loss falls, and an interruption changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasoner_rl.config.recipes import SftConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., SftConfig]:
    """A function of the folder's name that makes the recipe of 12 steps on 10 worked examples."""
    rows = [{"q": f"{n} plus 1?", "a": n + 1, "work": f"{n}+1={n + 1}"} for n in range(9)]
    rows.append({"q": "too long", "a": 0, "work": "x" * 100})
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(name: str, **run: Any) -> SftConfig:
        return SftConfig.model_validate(
            {
                "run": {"output_dir": tmp_path / name, "steps": 12, "threads": 1, "seed": 1, **run},
                "model": {"path": str(tiny_checkpoint("llama-untied"))},
                "data": {
                    "train": {
                        "path": data,
                        "columns": {"problem": "q", "answer": "a", "solution": "work"},
                    },
                    "response_template": "{solution}\nAnswer: {answer}",
                    "max_response_tokens": 40,
                },
                "batch": {"examples_per_step": 4, "micro_batch_tokens": 100},
                "training": {"optimizer": {"lr": 0.01}, "schedule": {"kind": "cosine", "warmup_steps": 2}},
                "checkpoint": {"every_steps": 5},
                "logging": {"tensorboard": False},
            }
        )

    return make


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "speed/", "memory/"))} for row in rows
    ]


def test_the_loss_falls_and_a_stopped_run_goes_on_exactly(
    recipe: Callable[..., SftConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = train(recipe("straight"))
    assert summary is not None
    assert (summary["steps"], summary["algorithm"], summary["evaluations"]) == (12, "sft", {})
    assert "12 steps of 4 examples: 5.33 passes over 9\n" in capsys.readouterr().out, (
        "the long one is dropped"
    )
    straight = rows_of(tmp_path / "straight")
    assert [row["step"] for row in straight] == list(range(1, 13))
    losses = [row["sft/loss"] for row in straight]
    assert losses[0] > 3, "a random model"
    assert losses[-1] < 0.6 * losses[0]
    step = Trainer.step

    def step_with_ctrl_c(run: Trainer) -> None:
        if run.state.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    monkeypatch.setattr(Trainer, "step", step_with_ctrl_c)
    assert train(recipe("stopped")) is None
    checkpoints = tmp_path / "stopped" / "checkpoints"
    assert (checkpoints / "latest").read_text() == "step_000007\n"
    assert not (tmp_path / "stopped" / "final").exists()
    monkeypatch.undo()
    assert train(recipe("stopped")) is not None
    assert rows_of(tmp_path / "stopped") == straight
    ours = load_file(tmp_path / "stopped" / "final" / "model.safetensors")
    theirs = load_file(tmp_path / "straight" / "final" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_start_of_a_finished_run_changes_nothing(
    recipe: Callable[..., SftConfig], tmp_path: Path
) -> None:
    first = train(recipe("run", steps=3))
    weights = (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    assert train(recipe("run", steps=3)) == first
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == weights


def test_what_cannot_be_gone_on_from(recipe: Callable[..., SftConfig], tmp_path: Path) -> None:
    train(recipe("run", steps=2))
    with pytest.raises(ConfigError, match=r"run\.resume is 'never'"):
        train(recipe("run", resume="never"))
    with pytest.raises(ConfigError, match=r"run\.seed is 2, but .* was made with 1"):
        train(recipe("run", seed=2))
    (tmp_path / "run" / "checkpoints" / "step_000002" / "driver.json").unlink()
    with pytest.raises(UserError, match=r"step_000002 is damaged"):
        train(recipe("run"))
