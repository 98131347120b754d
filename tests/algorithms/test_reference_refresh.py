"""A reference that is refreshed every so many steps: when, and that a resumed run continues with the same one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.reference_refresh import ReferenceRefresh
from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.trainer.train import train

Recipe = Callable[..., Path]
ONE_UPDATE = {"prompts_per_step": 4, "prompts_per_update": 4, "micro_batch_tokens": 200}


class Reference:
    refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1


def test_it_is_refreshed_after_every_so_many_steps_also_across_a_resumption() -> None:
    reference = Reference()
    models = Models(None, reference=reference)  # type: ignore[arg-type]
    first = ReferenceRefresh(3)
    assert [values(first.after_update(models)) for _ in range(2)] == [{"policy/reference_refreshed": 0.0}] * 2
    second = ReferenceRefresh(3)
    second.restore(json.loads(json.dumps(first.state())))
    assert values(second.after_update(models)) == {"policy/reference_refreshed": 1.0}
    assert reference.refreshed == 1
    assert ReferenceRefresh(None).after_update(models) == {}


def grpo(write_recipe: Recipe, output: Path, **changes: Any) -> Any:
    algorithm = {
        "kind": "grpo",
        "loss": {"kl": {"coefficient": 0.1}},
        "reference_refresh_steps": 2,
        **changes,
    }
    training = {"optimizer": {"lr": 1.0e-3}}  # at a constant rate, which does not depend on run.steps
    recipe = write_recipe(algorithm=algorithm, batch=ONE_UPDATE, evaluation={}, training=training)
    return load_recipe(recipe, [f"run.output_dir={output}"])


def test_kl_begins_at_zero_after_each_refresh_and_a_resumed_run_has_the_same_reference(
    write_recipe: Recipe, tmp_path: Path
) -> None:
    """With one update per step, its KL is that of the weights at the beginning of the step."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(grpo(write_recipe, whole))
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["policy/reference_refreshed"] for row in rows] == [0, 1, 0, 1]
    assert [row["policy/kl"] > 0 for row in rows] == [False, True, False, True]
    config = grpo(write_recipe, parts)
    train(config.model_copy(update={"run": config.run.model_copy(update={"steps": 3})}))
    assert (parts / "checkpoints" / "step_000003" / "reference").is_dir()
    train(config)
    resumed = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [row["policy/kl"] for row in resumed] == [row["policy/kl"] for row in rows]
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_there_must_be_a_reference_that_can_change(write_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference_refresh_steps needs a reference policy"):
        grpo(write_recipe, tmp_path, loss={"kl": {"coefficient": 0.0}})
    recipe = write_recipe(algorithm={"kind": "grpo", "reference_refresh_steps": 2})
    with pytest.raises(ConfigError, match=r"must be unset with model\.lora"):
        load_recipe(recipe, ["model.lora.rank=4"])


def test_refreshing_can_begin_when_a_run_is_resumed(write_recipe: Recipe, tmp_path: Path) -> None:
    config = grpo(write_recipe, tmp_path / "run", reference_refresh_steps=None)
    train(config.model_copy(update={"run": config.run.model_copy(update={"steps": 1})}))
    assert not (tmp_path / "run" / "checkpoints" / "step_000001" / "reference").exists()
    config = grpo(write_recipe, tmp_path / "run", reference_refresh_steps=1)
    train(config.model_copy(update={"run": config.run.model_copy(update={"steps": 3})}))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["policy/kl"] > 0 for row in rows] == [False, True, False]
