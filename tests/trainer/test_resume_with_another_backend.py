"""A whole run that is stopped, resumed with the other backend, and resumed with the first again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from reasoner_rl.trainer.resume import _told

MEGATRON = "training.backend.kind=megatron"


def test_a_changed_kind_is_one_line_and_a_new_section_is_told_key_by_key() -> None:
    old = {"run.steps": 2, "b.kind": "x", "b.both": 1, "b.of_x": 2, "critic": None}
    new = {
        "run.steps": 3,
        "b.kind": "y",
        "b.both": 4,
        "b.of_y": 5,
        "b.more": 6,
        "critic.kind": "z",
        "critic.lr": 7,
    }
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    assert list(_told(changed, old, new)) == [
        "b.both: 1 -> 4",
        "b.kind: 'x' -> 'y', and 3 keys that only one of these kinds has",
        "critic.kind: None -> 'z'",
        "critic.lr: None -> 7",
        "run.steps: 2 -> 3",
    ]


@pytest.mark.slow
def test_a_run_goes_on_with_the_other_backend(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("mbridge")
    recipe = write_recipe(tiny_checkpoint("llama-untied"), tmp_path)
    spawn(run_all, (recipe, tmp_path), nprocs=1)  # in a process of its own, which Megatron changes
    told = (tmp_path / "told.txt").read_text()
    for line in (
        "  changed since: training.backend.kind: 'fsdp' -> 'megatron', and 12 keys that only one of these kinds has",
        "  policy: the checkpoint was made by fsdp on 1 worker; its tensors are divided anew for megatron on 1 worker "
        "(distributed_optimizer)",
        "  changed since: training.backend.kind: 'megatron' -> 'fsdp', and 12 keys that only one of these kinds has",
        "  policy: the checkpoint was made by megatron on 1 worker (distributed_optimizer); its tensors are divided "
        "anew for fsdp on 1 worker",
    ):
        assert told.count(f"{line}\n") == 1, told
    whole, changed = (steps_of(tmp_path / name) for name in ("whole", "changed"))
    assert [row["step"] for row in changed] == [row["step"] for row in whole] == [1, 2, 3, 4]
    for one, other in zip(whole, changed, strict=True):
        for key in ("train/grad_norm", "train/lr", "sft/loss"):
            assert other[key] == pytest.approx(one[key], rel=1e-4), (one["step"], key)
    final = load_file(tmp_path / "whole" / "final" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "changed" / "final" / "model.safetensors").items():
        torch.testing.assert_close(tensor, final[name], atol=1e-5, rtol=1e-4, msg=name)


def write_recipe(model: Path, folder: Path) -> Path:
    rows = [{"q": f"{n} plus 1?", "a": n + 1, "work": f"{n}+1={n + 1}"} for n in range(9)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"problem": "q", "answer": "a", "solution": "work"}
    recipe = {
        "recipe": "sft",
        "run": {"output_dir": "unset", "steps": 4, "threads": 1, "seed": 1},
        "model": {"path": str(model), "dtype": "float32"},
        "data": {
            "train": {"path": str(folder / "train.jsonl"), "columns": columns},
            "response_template": "{solution}\nAnswer: {answer}",
            "max_response_tokens": 40,
        },
        "batch": {"examples_per_step": 4, "micro_batch_tokens": 100},
        "training": {"optimizer": {"lr": 0.01, "eps": 1e-3}, "schedule": {"warmup_steps": 2}},
        "logging": {"tensorboard": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def run_all(rank: int, recipe: Path, folder: Path) -> None:
    from reasoner_rl.cli.app import app

    with (folder / "told.txt").open("w") as told, redirect_stdout(told):
        for name, *overrides in (
            ("whole",),
            ("changed", "run.steps=2"),
            ("changed", "run.steps=3", MEGATRON),
            ("changed", "run.steps=4"),
        ):
            command = ["sft", str(recipe), f"run.output_dir={folder / name}", *overrides]
            app(command, standalone_mode=False)


def steps_of(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "train/lr" in row]
