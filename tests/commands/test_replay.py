"""Recorded steps made again: from a checkpoint, from the start, under another recipe, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reasoner_rl.cli.app import app
from reasoner_rl.commands.replay import ReplayReport, replay_step
from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError, DataError, UserError
from reasoner_rl.trainer.train import train

UNLIKE = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    right = len(solution_str) % 2 == 0
    return {"score": float(right), "acc": right}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """Four steps with checkpoints of the second and the fourth."""
    output = tmp_path_factory.mktemp("replay") / "run"
    tree = {
        **tiny_run,
        "run": {**tiny_run["run"], "output_dir": str(output)},
        "batch": {key: value for key, value in tiny_run["batch"].items() if key != "prompts_per_generation"},
        "checkpoint": {"every_steps": 2, "keep_last": 2},
        "evaluation": {},
    }
    recipe = output.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump(tree))
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    (output.parent / "unlike.py").write_text(UNLIKE)
    return output


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(run, tmp_path / "copy")


def changed(report: ReplayReport, name: str) -> tuple[float | None, float | None]:
    (row,) = [row for row in report.metrics if row.name == name]
    return row.again, row.changed


@pytest.mark.parametrize(
    ("step", "checkpoint"), [(4, 2), (3, 2), (2, None)], ids=["between", "next", "start"]
)
def test_a_step_is_made_again_to_the_bit(run: Path, step: int, checkpoint: int | None) -> None:
    report = replay_step(run, step)
    found = report.recording.checkpoint
    assert (found and found[0]) == checkpoint
    assert report.differ == []
    assert {"policy/loss", "train/grad_norm", "train/lr", "policy/rollout_gap_max"} <= {
        row.name for row in report.metrics
    }
    assert all(row.again == row.logged for row in report.metrics)
    assert report.largest == {"trainer_logprobs": 0.0, "advantages": 0.0}
    assert report.changed is None


def test_another_clip_range_changes_the_loss_alone(run: Path) -> None:
    report = replay_step(run, 4, ["algorithm.loss.clip_low=0.0001", "algorithm.loss.clip_high=0.0001"])
    assert report.differ == []
    again, other = changed(report, "policy/clip_fraction_high")
    assert again is not None
    assert other is not None
    assert other > again
    assert changed(report, "train/lr")[0] == changed(report, "train/lr")[1]
    assert report.changed is not None
    assert (report.changed.verdicts, report.changed.dropped) == ([], 0)
    assert (report.changed.other_sign, report.changed.mean_change) == (0, 0.0)


def test_another_advantage_is_what_the_step_would_have_had(run: Path) -> None:
    """A_i = r_i - mean(r) instead of the same by the deviation: no sign changes."""
    report = replay_step(run, 3, ["algorithm.advantage=group_mean"])
    rows = [json.loads(line) for line in (run / "rollouts" / "step_000003.jsonl").open()]
    groups = [rows[start : start + 4] for start in range(0, 16, 4)]
    change = 0.0
    for group in groups:
        mean = sum(row["score"] for row in group) / 4
        change += sum(row["tokens"] * abs(row["advantage"] - row["score"] + mean) for row in group)
    assert report.changed is not None
    assert report.changed.tokens == sum(row["tokens"] for row in rows)
    assert report.changed.other_sign == 0
    assert report.changed.mean_change == pytest.approx(change / report.changed.tokens, rel=1e-5)


def test_another_verifier_scores_the_same_responses(run: Path) -> None:
    report = replay_step(run, 3, [f"reward.functions.0.fn={run.parent / 'unlike.py'}:compute_score"])
    rows = [json.loads(line) for line in (run / "rollouts" / "step_000003.jsonl").open()]
    groups = [rows[start : start + 4] for start in range(0, 16, 4)]
    mixed = [len({len(row["response"]) % 2 for row in group}) == 2 for group in groups]
    found = report.changed
    assert found is not None
    assert (found.responses, found.dropped) == (16, mixed.count(False))
    expected = [
        (row["uid"], number, len(row["response"]) % 2 == 0)
        for group, kept in zip(groups, mixed, strict=True)
        for number, row in enumerate(group)
        if kept and (row["accuracy"] == 0 or len(row["response"]) % 2)  # 1 stays 1, and -1 becomes 0
    ]
    assert [(each.uid, each.response, each.after.accuracy) for each in found.verdicts] == expected
    assert report.differ == [], "the record itself is as it was"


def test_what_is_not_as_logged_is_said(copied: Path) -> None:
    metrics = copied / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.open()]
    rows[3]["policy/loss"] += 1e-4
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["replay", str(copied), "4"])
    assert result.exit_code == 1, result.output
    assert f"not as logged: step 4: policy/loss is {rows[3]['policy/loss'] - 1e-4:.9g}, and " in result.output
    assert replay_step(copied, 4, tolerance=1e-3).differ == []


def test_a_wrong_step_on_the_way_is_named(copied: Path) -> None:
    metrics = copied / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.open()]
    rows[2]["train/grad_norm"] *= 1.01
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = replay_step(copied, 4).differ
    assert line.startswith("step 3: train/grad_norm is ")


def test_what_is_missing_is_named(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.jsonl has no step 9; it has steps 1 to 4$"):
        replay_step(copied, 9)
    with pytest.raises(ConfigError, match=r"is no run: it has no recipe\.yaml"):
        replay_step(copied / "rollouts", 2)
    (copied / "rollouts" / "step_000001.parquet").unlink()
    with pytest.raises(
        DataError, match=r"step_000001\.parquet does not exist: step 2 is reached from the model"
    ):
        replay_step(copied, 2)
    assert replay_step(copied, 3).differ == []
    shutil.rmtree(copied / "checkpoints" / "step_000002")
    with pytest.raises(DataError, match=r"no checkpoint before it is left \(checkpoint\.keep_last\)"):
        replay_step(copied, 3)


def test_a_damaged_checkpoint_is_not_used(copied: Path) -> None:
    file = copied / "checkpoints" / "step_000002" / "driver.json"
    file.write_text(file.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(UserError, match=r"step_000002 is damaged: driver\.json has other contents"):
        replay_step(copied, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.dtype=bfloat16", "model.dtype: a step is made again on the same models and responses"),
        ("algorithm.kind=ppo", "the changed one trains critic and policy, and the checkpoint has policy"),
        ("run.seed=3", "the run has these values"),
        ("algorithm.los.clip_low=1", "algorithm.los"),
    ],
)
def test_changes_that_do_not_fit_are_refused(run: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replay_step(run, 3, [change])
    assert message in str(caught.value)


def test_a_step_of_supervised_fine_tuning(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> None:
    lines = [
        {"problem": f"{n} plus {n}?", "solution": f"Answer: {2 * n}", "answer": str(2 * n)} for n in range(8)
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "recipe": "sft",
        "run": {"steps": 3, "threads": 1, "output_dir": str(tmp_path / "run")},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(tmp_path / "examples.jsonl"), "columns": {"solution": "solution"}}},
        "batch": {"examples_per_step": 4},
        "checkpoint": {"every_steps": 1, "keep_last": 3},
        "logging": {"progress": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert train(load_recipe(tmp_path / "recipe.yaml")) is not None  # type: ignore[arg-type]
    report = replay_step(tmp_path / "run", 3)
    assert report.differ == []
    assert {row.name for row in report.metrics} >= {"sft/loss", "train/grad_norm"}
    assert all(row.again == row.logged for row in report.metrics)
    with pytest.raises(ConfigError, match="learns from examples, which are not scored"):
        replay_step(tmp_path / "run", 3, ["reward.timeout_seconds=5"])
