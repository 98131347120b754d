"""`reasoner-rl drift` on a tiny model: a healthy engine is flat, and of a wrong one the place is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from reasoner_rl.cli.app import app
from reasoner_rl.commands.drift import at_rate_zero
from reasoner_rl.commands.drift_report import StepReport, problems_of
from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.rollout.hf_engine import HfRolloutEngine

LIMITS = DriftConfig.model_validate({"gap": {"above": 0.01}})


@pytest.fixture
def recipe(tmp_path: Path, tiny_run: dict[str, Any]) -> str:
    tree = {**tiny_run, "run": {**tiny_run["run"], "output_dir": str(tmp_path / "never")}}
    tree["rollout"] = {**tiny_run["rollout"], "sync_check": "none"}  # it would notice first
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return str(tmp_path / "recipe.yaml")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["drift", *words], catch_exceptions=True)


def test_a_healthy_recipe_is_flat_and_its_folder_holds_the_records(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(recipe, "--steps", "2", "--out", str(out), "--layers")
    assert result.exit_code == 0, result.output
    assert "flat over 2 steps; the weights are the same to the bit" in result.output
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert [(row["step"], row["train/lr"]) for row in rows] == [(1, 0.0), (2, 0.0)]
    assert max(row["policy/rollout_gap_mean"] for row in rows) < 1e-5
    assert all(row["train/grad_norm"] > 0 for row in rows), "the update was not made"
    assert all(row["groups/kept"] == 4 for row in rows)
    assert not (tmp_path / "never").exists()
    assert not (out / "checkpoints").exists()
    # In the table of parts, every part of both layers, and none parted.
    for part in ("embed_tokens", "layers.0.self_attn", "layers.1.mlp", "layers.1 ", "norm"):
        assert part in result.output
    assert "parted" not in result.output
    again = run(recipe, "--steps", "2", "--out", str(out))
    assert again.exit_code == 2
    assert "must be an empty folder, or a new one" in again.output + again.stderr


@pytest.mark.parametrize(
    ("break_it", "part"),
    [("rotary", "layers.0.self_attn"), ("matrix", "layers.1.mlp")],
)
def test_the_part_at_which_a_wrong_engine_leaves_is_named(
    recipe: str, monkeypatch: pytest.MonkeyPatch, break_it: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load = HfRolloutEngine.load_weights

    def load_weights(self: HfRolloutEngine, tensors: Any, version: int) -> None:
        load(self, tensors, version)
        decoder: Any = self.decoder
        with torch.no_grad():
            if break_it == "matrix":
                decoder.layers[1].mlp.down_proj.weight.mul_(-1)
            elif version == 0:
                decoder.rotary_emb.inv_freq.sqrt_()

    monkeypatch.setattr(HfRolloutEngine, "load_weights", load_weights)
    result = run(recipe, "--steps", "1", "--layers")
    assert result.exit_code == 1
    said = result.output + str(result.exception) + capsys.readouterr().err
    assert f"engine and trainer part at {part}" in said
    assert "gap: policy/rollout_gap_mean is" in said


def test_what_cannot_be_compared_by_layer_is_refused(recipe: str) -> None:
    result = run(recipe, "--layers", "rollout.engine.kind=vllm")
    assert result.exit_code == 2
    assert "--layers: layers can be compared where rollout.engine.kind is hf" in result.output + result.stderr


def test_only_the_rate_and_what_is_not_looked_at_change(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_recipe(str(write_recipe()))
    assert isinstance(config, OnlineConfig)
    still = at_rate_zero(config, 3, tmp_path / "x")
    assert (still.training.optimizer.lr, still.run.steps) == (0.0, 3)
    assert still.training.optimizer.weight_decay == config.training.optimizer.weight_decay
    same = ("model", "data", "rollout", "reward", "cluster", "drift", "critic")
    assert all(getattr(still, name) == getattr(config, name) for name in same)


def steps(*accuracies: list[list[float]]) -> list[StepReport]:
    return [StepReport(number, each, None, None, None) for number, each in enumerate(accuracies, start=1)]


def test_an_accuracy_that_moves_is_a_problem_and_one_that_varies_is_not() -> None:
    half = [[1.0, 0.0], [0.0, 1.0]] * 16
    some = [[1.0, 0.0], [0.0, 0.0]] * 16
    none = [[0.0, 0.0]] * 32
    assert problems_of(steps(half, some, half), [], LIMITS, same_weights=True) == []
    [problem] = problems_of(steps(half, half, none), [], LIMITS, same_weights=True)
    assert problem.startswith("accuracy: step 3 has 0.000, where all steps have 0.333")
    assert problems_of(steps(none, none), [], LIMITS, same_weights=True) == []
    [changed] = problems_of(steps(half), [], LIMITS, same_weights=False)
    assert changed == "weights: they have changed, with learning rate 0"


def test_only_gaps_are_alarms_of_the_check() -> None:
    row = {"step": 1, "groups/generated": 4.0, "policy/entropy": 1e-9, "memory/host_used_share": 0.99}
    [problem] = problems_of([], [{**row, "policy/rollout_gap_mean": 0.5}], LIMITS, same_weights=True)
    assert problem == "step 1: gap: policy/rollout_gap_mean is 0.5, above 0.01 (drift.gap.above)"
