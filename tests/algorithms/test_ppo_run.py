"""Whole PPO runs of a tiny model: what they train and log, and that neither a kill nor offloading changes anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError
from reasoner_rl.trainer.train import train

STEPS = 4
MEASURED = ("time/", "speed/", "memory/")  # these differ from run to run
PPO: dict[str, Any] = {
    "run": {"steps": STEPS, "seed": 3, "threads": 1},
    "rollout": {"responses_per_prompt": 1, "sampling": {"max_response_tokens": 12}},
    "algorithm": {
        "kind": "ppo",
        "gae": {"gamma": 0.99, "lam": 0.9, "critic_lam": 1.0, "bootstrap_truncated": True},
        "kl_in_reward": {"coefficient": 0.1, "controller": "adaptive", "target": 0.001, "horizon": 100},
        "critic_warmup_steps": 1,
    },
    "critic": {
        "optimizer": {"lr": 3.0e-3},
        "schedule": {"kind": "linear", "warmup_steps": 1, "final_ratio": 0.5},
    },
    "batch": {"prompts_per_step": 6, "prompts_per_update": 3, "micro_batch_tokens": 100},
    "training": {"optimizer": {"lr": 2.0e-3}},
    "evaluation": {},
    "checkpoint": {"every_steps": 1, "keep_last": 4},
}
# The process dies in its third step, when the critic is updated and the policy is not.
KILLED = """
import os, signal, sys
from reasoner_rl.cli import main
from reasoner_rl.distributed.models import CriticGroup

update, steps = CriticGroup.update, []

def update_and_die(group, samples):
    found = update(group, samples)
    steps.append(1)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

CriticGroup.update = update_and_die
sys.argv[1:] = ["train", sys.argv[1]]
main()
"""


def recipe_in(folder: Path, tiny_run: dict[str, Any], **changes: Any) -> Path:
    tree = {**tiny_run, **PPO, **changes}
    tree["run"] = {**PPO["run"], "output_dir": str(folder / "run")}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(recipe: Path, *overrides: str) -> dict[str, Any] | None:
    return train(load_recipe(recipe, overrides))  # type: ignore[arg-type]


def rows(output: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock or the memory says."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in lines]


def trained_state(folder: Path, role: str, scratch: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model's weights and of its optimizer in a checkpoint, by name."""
    found: dict[str, torch.Tensor] = {}
    for part in sorted(path.parent for path in (folder / role).rglob(".metadata")):
        dcp_to_torch_save(part, scratch / "whole.pt")
        _flatten(torch.load(scratch / "whole.pt", weights_only=False), part.name, found)
    return found


def _flatten(value: Any, name: str, found: dict[str, torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found[name] = value
    elif isinstance(value, dict):
        for key, each in value.items():
            _flatten(each, f"{name}.{key}", found)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """The output of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("ppo")
    summary = run(recipe_in(folder, tiny_run))
    assert summary is not None
    assert (summary["steps"], summary["algorithm"]) == (STEPS, "ppo")
    return folder / "run"


def test_metrics_of_every_step(uninterrupted: Path) -> None:
    steps = rows(uninterrupted)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row["critic/grad_norm"] > 0
        assert row["value/loss"] > 0
        assert 0 <= row["value/clip_fraction"] <= 1
        assert row["value/explained_variance"] <= 1
        assert row["advantage/token_mean"] == pytest.approx(0, abs=1e-5)
        assert row["advantage/token_std"] == pytest.approx(1, abs=0.02)  # n - 1 when whitened, n when logged
        assert row["advantage/token_min"] < 0 < row["advantage/token_max"]
        assert row["value/return_min"] <= row["value/return_mean"] <= row["value/return_max"]
    # A new head predicts 0, so that nothing of the returns is explained, and they are the errors.
    assert steps[0]["value/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert steps[0]["value/error_mean"] == pytest.approx(-steps[0]["value/return_mean"], abs=1e-6)
    # The warm-up of the critic is the first step; the policy and its learning rate appear after it.
    assert ["train/lr" in row for row in steps] == [False, True, True, True]
    assert [row["train/lr"] for row in steps[1:]] == pytest.approx([2e-3] * 3)
    # 2 updates a step: 1/3 and 2/3 of the rate while it warms up, then from all of it in 6 updates to its half.
    factors = [1 / 3, 2 / 3, *(1 - update / 12 for update in range(6))]
    expected = [3e-3 * sum(factors[start : start + 2]) / 2 for start in range(0, 8, 2)]
    assert [row["critic/lr"] for row in steps] == pytest.approx(expected)
    # At the first two steps the policy is the reference. The coefficient stays while the critic alone is trained; then
    # it falls by a fifth times 6 / 100.
    assert [row["reward/kl"] for row in steps[:2]] == [0.0, 0.0]
    assert steps[2]["reward/kl"] != 0
    assert [row["reward/kl_coefficient"] for row in steps[:3]] == pytest.approx([0.1, 0.1, 0.1 * 0.988])


def test_both_models_are_trained_and_the_reference_is_not_saved(
    uninterrupted: Path, tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    start = load_file(Path(tiny_run["model"]["path"]) / "model.safetensors")
    for name, tensor in load_file(uninterrupted / "final" / "model.safetensors").items():
        assert not torch.equal(tensor, start[name]), name
    checkpoints = uninterrupted / "checkpoints"
    assert sorted(path.name for path in (checkpoints / "step_000001").iterdir() if path.is_dir()) == [
        "critic",
        "policy",
    ]
    first = trained_state(checkpoints / "step_000001", "critic", tmp_path)
    last = trained_state(checkpoints / "step_000004", "critic", tmp_path)
    assert first.keys() == last.keys()
    assert sum("score" in name for name in first) > 0, list(first)
    unchanged = [name for name in first if torch.equal(first[name], last[name])]
    assert unchanged == []


@pytest.mark.slow
def test_a_run_that_was_killed_between_its_models_ends_with_the_same_bits(
    uninterrupted: Path, tiny_run: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    recipe = recipe_in(tmp_path, tiny_run)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", KILLED, str(recipe)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    output = tmp_path / "run"
    assert (output / "checkpoints" / "latest").read_text() == "step_000002\n"
    assert run(recipe) is not None
    assert rows(output) == rows(uninterrupted)
    for step in (3, 4):
        name = f"step_{step:06d}"
        for role in ("policy", "critic"):
            ours = trained_state(output / "checkpoints" / name, role, tmp_path)
            theirs = trained_state(uninterrupted / "checkpoints" / name, role, tmp_path)
            assert ours.keys() == theirs.keys()
            for key in theirs:
                assert torch.equal(ours[key], theirs[key]), (name, role, key)
        states = [
            json.loads((folder / "checkpoints" / name / "driver.json").read_text())
            for folder in (output, uninterrupted)
        ]
        assert states[0]["algorithm"] == states[1]["algorithm"]
        assert states[0]["algorithm"]["steps"] == step
        texts = [(folder / "rollouts" / f"{name}.jsonl").read_text() for folder in (output, uninterrupted)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("training", "critic"), [("all", None), ("none", "all")], ids=["all models", "the critic alone"]
)
def test_neither_offloading_nor_saving_changes_a_number(
    training: str, critic: str | None, uninterrupted: Path, tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    """Saving after the critic's warm-up step meets a policy whose optimizer has made no step."""
    recipe = recipe_in(
        tmp_path,
        tiny_run,
        training={**PPO["training"], "offload": training},
        critic={**PPO["critic"], "offload": critic},
        checkpoint={"every_steps": None, "export_at_end": False},
    )
    run(recipe)
    assert rows(tmp_path / "run") == rows(uninterrupted)


def test_what_cannot_change_on_resumption_is_told(uninterrupted: Path) -> None:
    recipe = uninterrupted.parent / "recipe.yaml"
    with pytest.raises(ConfigError, match=r"critic\.optimizer\.lr is 0\.5, but .* was made with 0\.003"):
        run(recipe, "critic.optimizer.lr=0.5")


def test_a_critic_of_its_own_cannot_be_added_on_resumption(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    run(recipe_in(tmp_path, tiny_run, critic=None), "run.steps=2")
    message = (
        r"critic\.optimizer\.betas is \[0\.9, 0\.999\], but .*step_000002 was made with None, and it cannot"
    )
    with pytest.raises(ConfigError, match=message):
        run(recipe_in(tmp_path, tiny_run))


def test_ppo_does_not_continue_a_run_without_a_critic_and_the_other_way_round(
    uninterrupted: Path, tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    def other() -> Path:
        return recipe_in(tmp_path, tiny_run, algorithm={"kind": "reinforce_plus_plus"}, critic=None)

    run(other(), "run.steps=1")
    message = (
        r"algorithm\.kind is '{}', but .*step_00000. was made with '{}', and it cannot change within a run"
    )
    with pytest.raises(ConfigError, match=message.format("ppo", "reinforce_plus_plus")):
        run(recipe_in(tmp_path, tiny_run))
    with pytest.raises(ConfigError, match=message.format("reinforce_plus_plus", "ppo")):
        run(other(), f"run.output_dir={uninterrupted}")
