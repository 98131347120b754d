"""PPO with a critic, a reference and PPO-ptx on two ranks over Ray, also resumed; LoRA's reference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reasoner_rl.config.load import load_recipe
from reasoner_rl.trainer.train import train

TWO_WORKERS = {"kind": "ray", "workers_per_node": 2, "device": "cpu"}
STEPS = 2
# Adam divides by gradients that vanish: with a larger epsilon rounding is not blown up to whole steps.
OPTIMIZER = {"lr": 3.0e-3, "eps": 1.0e-3}
PPO: dict[str, Any] = {
    "algorithm": {
        "kind": "ppo",
        "gae": {"gamma": 0.99, "lam": 0.9},
        "kl_in_reward": {"coefficient": 0.1, "controller": "adaptive", "target": 0.01, "horizon": 100},
    },
    "critic": {"optimizer": OPTIMIZER},
    "rollout": {"responses_per_prompt": 1, "sampling": {"max_response_tokens": 12}},
    "batch": {"prompts_per_step": 6, "prompts_per_update": 3, "micro_batch_tokens": 100},
    "training": {"optimizer": OPTIMIZER},
    "evaluation": {},
}
COMPARED = ("policy/", "critic/", "value/", "advantage/", "train/", "reward/", "response/", "ptx/")
MEASURED = ("time/", "speed/", "memory/")  # these differ from run to run


def finished(folder: Path, tiny_run: dict[str, Any], **sections: Any) -> list[dict[str, Any]]:
    """The metrics of a run whose output is ``folder/run``; with Ray in a process of its own, which owns the cluster."""
    folder.mkdir(exist_ok=True)
    run = {**tiny_run["run"], "steps": STEPS, "output_dir": str(folder / "run")}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny_run, **sections, "run": run}))
    if "cluster" in sections:
        command = [sys.executable, "-m", "reasoner_rl.cli", "train", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    else:
        assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    return rows_of(folder / "run")


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def ppo(tiny_run: dict[str, Any]) -> dict[str, Any]:
    """The sections of a PPO run with examples mixed in: the training problems with their answers."""
    data = {"train": tiny_run["data"]["train"], "response_template": "{answer}"}
    ptx = {"coefficient": 0.5, "examples_per_update": 3, "data": data}
    return {**PPO, "algorithm": {**PPO["algorithm"], "ptx": ptx}}


def without_measurements(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in rows]


def hashes_of_models(checkpoint: Path) -> dict[str, str]:
    """The hash of each file with tensors of the policy, the critic or an optimizer."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    # The name of its folder is in .metadata, and so is a random one.
    names = [name for name in files if not name.endswith(".metadata")]
    found = {name: files[name]["sha256"] for name in names if name.startswith(("policy/", "critic/"))}
    assert any(name.startswith("critic/") for name in found)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """The output of a PPO run in one process."""
    folder = tmp_path_factory.mktemp("ppo") / "alone"
    rows = finished(folder, tiny_run, **ppo(tiny_run))
    assert rows[0]["reward/kl"] == 0, "the policy is its reference before the first update"
    assert rows[1]["reward/kl"] != 0
    return folder / "run"


def responses(output: Path) -> list[str]:
    with (output / "rollouts" / "step_000001.jsonl").open() as lines:
        return [json.loads(line)["response"] for line in lines]


BACKENDS: dict[str, dict[str, Any]] = {
    "fsdp": {"kind": "fsdp"},
    "megatron": {"kind": "megatron", "tensor_parallel": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ranks_train_policy_and_critic_as_one_process_does(
    backend: str, alone: Path, tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("verl")
    if backend == "megatron":
        pytest.importorskip("megatron.core")
        pytest.importorskip("mbridge")
    training = {**PPO["training"], "backend": BACKENDS[backend], "offload": "all"}
    sections = {**ppo(tiny_run), "training": training, "cluster": TWO_WORKERS}
    together = finished(tmp_path / "two", tiny_run, **sections)
    one = rows_of(alone)
    assert [row["step"] for row in together] == [row["step"] for row in one] == [1, 2]
    for mine, theirs in zip(one, together, strict=True):
        compared = [
            key for key in mine if key.startswith(COMPARED) and not key.startswith("policy/rollout_gap")
        ]
        assert {"value/explained_variance", "value/loss", "critic/grad_norm", "critic/lr"} <= set(compared)
        assert {"advantage/token_max", "reward/kl_coefficient", "reward/kl", "policy/loss"} <= set(compared)
        assert "ptx/loss" in compared
        for key in compared:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-3, abs=2e-5), (mine["step"], key)
        assert theirs["policy/rollout_gap_max"] < 1e-4
    assert responses(tmp_path / "two" / "run") == responses(alone)
    trained = load_file(alone / "final" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "two" / "run" / "final" / "model.safetensors").items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-4, rtol=1e-4, msg=name)
    output = tmp_path / "two" / "run"
    last = output / "checkpoints" / "step_000002"
    saved = {path.name for path in last.iterdir()}
    assert {"policy", "critic"} <= saved
    assert "reference" not in saved
    if backend == "fsdp":
        resumes_to_the_same_bits(tmp_path / "two", tiny_run, sections)


def resumes_to_the_same_bits(folder: Path, tiny_run: dict[str, Any], sections: dict[str, Any]) -> None:
    """Make the second step of a finished run again, as if it had been killed before it was saved."""
    output = folder / "run"
    last, final = output / "checkpoints" / "step_000002", output / "final"
    rows, hashes = rows_of(output), hashes_of_models(last)
    weights = (final / "model.safetensors").read_bytes()
    shutil.rmtree(last)
    shutil.rmtree(final)
    (output / "summary.json").unlink()
    resumed = finished(folder, tiny_run, **sections)
    assert without_measurements(resumed) == without_measurements(rows)
    assert hashes_of_models(last) == hashes
    assert (final / "model.safetensors").read_bytes() == weights


LORA_GRPO: dict[str, Any] = {
    "algorithm": {
        "kind": "grpo",
        "loss": {"kl": {"coefficient": 0.1}},
        "kl_in_reward": {"coefficient": 0.01, "estimator": "k3"},
    },
    "batch": {"prompts_per_step": 4, "prompts_per_update": 4, "micro_batch_tokens": 200},
    "training": {"optimizer": {"lr": 1.0e-2}},
    "evaluation": {},
}


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param({}, id="one process"),
        pytest.param({"cluster": TWO_WORKERS}, id="two ranks", marks=pytest.mark.slow),
    ],
)
def test_with_lora_the_reference_is_the_policy_without_its_adapters(
    cluster: dict[str, Any],
    tiny_run: dict[str, Any],
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    """At first the adapters add exactly nothing, and then they do; nothing else moves."""
    if cluster:
        pytest.importorskip("ray")
        pytest.importorskip("verl")
    model = {"path": str(tiny_checkpoint("qwen2-tied")), "lora": {"rank": 4}}
    rows = finished(tmp_path / "lora", tiny_run, model=model, **cluster, **LORA_GRPO)
    # In the reward, of the logprobs before the update, and in the loss, of those that the update computes.
    assert [rows[0][key] for key in ("reward/kl", "policy/kl")] == [0.0, 0.0]
    assert rows[1]["reward/kl"] > 1e-5
    assert rows[1]["policy/kl"] > 1e-5
