"""A run small enough for a test: a tiny model, a few problems, and a verifier that random text sometimes satisfies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HAS_LOWER_CASE_VOWEL = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    found = [letter for letter in solution_str if letter in "aeiou"]
    return {"score": 1.0 if found else -1.0, "acc": bool(found), "pred": found[0] if found else None}
"""


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]
) -> dict[str, Any]:
    """A recipe of kind online as a tree, without run.output_dir: 4 steps of 4 prompts with 4 responses each."""
    folder = tmp_path_factory.mktemp("tiny_run")
    (folder / "verifier.py").write_text(HAS_LOWER_CASE_VOWEL)
    for name, count in (("train", 12), ("heldout", 5)):
        rows = [{"problem": f"{name} {n} plus {n}?", "answer": str(2 * n)} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "recipe": "online",
        "run": {"steps": 4, "seed": 3, "threads": 1},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(folder / "train.jsonl")}, "prompts": {"max_tokens": 32}},
        "rollout": {"responses_per_prompt": 4, "sampling": {"max_response_tokens": 12}},
        "reward": {
            "functions": [{"fn": f"{folder}/verifier.py:compute_score", "name": "vowel"}],
            "overlong": {"buffer_tokens": 4},
            "workers": 1,
        },
        "batch": {
            "prompts_per_step": 4,
            "prompts_per_update": 2,
            "prompts_per_generation": 7,
            "micro_batch_tokens": 200,
        },
        "training": {
            "optimizer": {"lr": 1.0e-3},
            "schedule": {"kind": "linear", "warmup_steps": 1},
        },
        "evaluation": {"datasets": [{"path": str(folder / "heldout.jsonl")}], "every_steps": 2},
        "checkpoint": {"every_steps": 1, "keep_last": 2},
        "logging": {"progress": False},
    }


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_run: dict[str, Any]) -> Callable[..., Path]:
    """A function that writes the tiny recipe, with its output in ``tmp_path/run``, and returns the file."""

    def write(**sections: Any) -> Path:
        tree = {**tiny_run, "run": {**tiny_run["run"], "output_dir": str(tmp_path / "run")}, **sections}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write
