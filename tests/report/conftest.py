"""Runs to look at, made once: a real tiny one, and one whose responses try to break the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_responses import HOSTILE, made_up_group

from reasoner_rl.config.load import load_recipe
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.trainer.train import train


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """A run of 4 steps as `reasoner-rl train` leaves it."""
    output = tmp_path_factory.mktemp("report") / "tiny"
    recipe = output.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump({**tiny_run, "run": {**tiny_run["run"], "output_dir": str(output)}}))
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    return output


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """Step 1 in parquet with a dropped group, step 2 in JSONL alone, step 3 broken, step 4 as step 1; no summary."""
    folder = tmp_path_factory.mktemp("report") / "<b>hostile"
    accuracies = (1.0, 0.0, 1.0, 0.0, 0.0)
    group, samples = made_up_group(tiny_tokenizer, "problem <1>", HOSTILE, accuracies)
    other, _ = made_up_group(tiny_tokenizer, "problem <2>", ["all wrong"] * 2, (0.0, 0.0))
    RolloutRecorder(folder, "all", "parquet").rollouts(1, [group], samples, [other])
    RolloutRecorder(folder, "all", "jsonl").rollouts(2, [group], samples)
    (folder / "rollouts" / "step_000003.parquet").write_bytes(b"PAR1 broken")
    RolloutRecorder(folder, "all", "parquet").rollouts(4, [group], samples)
    write_jsonl(
        folder / "metrics.jsonl",
        [{"step": n, "reward/score": 0.1 * n, "time/step": 1.0} for n in range(1, 25)],
    )
    write_json(folder / "run.json", {"torch": "1.0"})
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"recipe": "online", "run": {"steps": 24}}))
    tiny_tokenizer.save_pretrained(folder / "final")
    return folder
