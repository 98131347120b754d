"""Runs that break on purpose are noticed within five steps, with their evidence, and healthy ones are left in peace."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import DriftError
from reasoner_rl.observability.events import EVENTS, Event, EventLog, read_events
from reasoner_rl.observability.rollout_table import read_rows
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.train import train
from reasoner_rl.trainer.watch import watch_of
from reasoner_rl.training.checkpoint import CheckpointStore

BREAKS_AT, STEPS = 5, 9


@pytest.fixture(scope="module")
def bench(repository: Path) -> dict[str, Any]:
    """What scripts/bench/drift_alarms.py defines."""
    return runpy.run_path(str(repository / "scripts" / "bench" / "drift_alarms.py"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> str:
    """The tiny run, made longer. With one update per step the trainer's logprobs are computed for evidence alone."""
    tree = {
        **tiny_run,
        "run": {**tiny_run["run"], "steps": STEPS, "output_dir": "to be set"},
        "batch": {"prompts_per_step": 4, "prompts_per_update": 4, "micro_batch_tokens": 200},
        "algorithm": {"kind": "dapo", "dynamic_sampling": {"enabled": False}},
        "checkpoint": {"every_steps": 2, "keep_last": 9, "export_at_end": False},
        "evaluation": {},
        "logging": {"progress": False, "tensorboard": False},
    }
    path = tmp_path_factory.mktemp("drift") / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def online(recipe: str, *overrides: str) -> OnlineConfig:
    config = load_recipe(recipe, list(overrides))
    assert isinstance(config, OnlineConfig)
    return config


@pytest.mark.parametrize("kind", ["sync", "rotary", "verifier", "entropy"])
def test_a_broken_run_is_noticed_within_five_steps_with_evidence(
    bench: dict[str, Any], recipe: str, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench["break_run"](kind, recipe, [], BREAKS_AT, tmp_path)
    alarm, output = found["alarm"], tmp_path / kind
    assert found["steps_to_alarm"] is not None
    assert 1 <= found["steps_to_alarm"] <= 5
    assert alarm["since"] >= BREAKS_AT
    assert f"alarm: step {alarm['step']}: {alarm['trend']}" in capsys.readouterr().out
    assert len(alarm["evidence"]) > 0
    for each in alarm["evidence"]:
        row = list(read_rows(output / each["file"]))[each["row"]]
        assert row["uid"] == each["uid"]
        assert row["step"] == alarm["step"]
        if kind == "verifier":
            assert row["status"] == "crash"
        if kind in ("sync", "rotary"):
            assert 0 <= min(each["positions"]) <= max(each["positions"]) < row["tokens"]
    # The state after the alarm is beside the checkpoints, and is none of them.
    steps = [step for step, _ in CheckpointStore(output / "checkpoints", 9).all()]
    assert steps == [step for step in range(2, alarm["step"]) if step % 2 == 0]
    assert (output / "alarmed" / f"step_{alarm['step']:06d}" / "manifest.json").is_file()
    healthy = max(step for step in steps if step < alarm["since"])
    assert f"The last healthy checkpoint is {output}/checkpoints/step_{healthy:06d}" in found["stopped"]


def test_healthy_runs_are_left_in_peace(bench: dict[str, Any], recipe: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        found = bench["healthy_run"](recipe, [], seed, tmp_path)
        assert (found["steps"], found["alarms"]) == (STEPS, {})


@contextmanager
def wrong_once(at: int) -> Iterator[None]:
    """The first engine that gets the weights for step ``at`` computes positions wrongly from then on."""
    load, broken = HfRolloutEngine.load_weights, list[int]()

    def load_weights(self: HfRolloutEngine, tensors: Any, version: int) -> None:
        load(self, tensors, version)
        if version == at - 1 and not broken:
            broken.append(version)
            rotary: Any = self.decoder.rotary_emb
            rotary.inv_freq.sqrt_()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HfRolloutEngine, "load_weights", load_weights)
        yield


def events_of(output: Path, *kinds: str) -> list[Event]:
    return [event for event in read_events(output / EVENTS) if event.kind in kinds]


def test_a_run_goes_back_to_the_last_healthy_checkpoint(recipe: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = (
        "rollout.sync_check=none",
        "drift.on_alarm=go_back",
        "run.steps=6",
        f"run.output_dir={output}",
    )
    with wrong_once(4):
        summary = train(online(recipe, *settings))
    assert summary is not None
    assert (summary["steps"], summary["returns"], summary["alarms"]) == (6, 1, {})
    kinds = [event.kind for event in events_of(output, "start", "alarm", "return", "resume", "end", "error")]
    assert kinds == ["start", "alarm", "return", "resume", "end"]
    assert [row["step"] for row in read_jsonl(output / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert max(row["policy/rollout_gap_mean"] for row in read_jsonl(output / "metrics.jsonl")) < 1e-5
    # What was recorded of the steps that do not count any more is kept, and other numbers were drawn in them.
    kept = output / "returns" / "1"
    assert [row["step"] for row in read_jsonl(kept / "metrics.jsonl")] == [1, 2, 3, 4]
    name = Path("rollouts") / "step_000003.jsonl"
    before, again = ([json.loads(line) for line in (place / name).open()] for place in (kept, output))
    assert (kept / "rollouts" / "step_000004.parquet").is_file()
    assert [row["response"] for row in before] != [row["response"] for row in again]
    assert DriverState.load(output / "checkpoints" / "step_000006").returns == 1


def test_a_run_that_goes_back_too_often_or_cannot_stops(
    bench: dict[str, Any], recipe: str, tmp_path: Path
) -> None:
    settings = ("rollout.sync_check=none", "drift.on_alarm=go_back", "drift.returns=1", "run.steps=4")
    again, never = tmp_path / "again", tmp_path / "never"
    with (
        bench["wrong_rotary_base"](3),
        pytest.raises(DriftError, match=r"went back 1 times \(drift.returns\)"),
    ):
        train(online(recipe, *settings, f"run.output_dir={again}"))
    assert len(events_of(again, "alarm")) == 2
    with (
        bench["wrong_rotary_base"](2),
        pytest.raises(DriftError, match="There is no checkpoint before step 2"),
    ):
        train(online(recipe, *settings, f"run.output_dir={never}"))


def test_a_watch_looks_at_the_past_of_a_resumed_run(recipe: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = online(recipe, f"run.output_dir={output}", "run.steps=3", "drift.window=3")
    assert train(config) is not None
    rows = read_jsonl(output / "metrics.jsonl")
    log, store = EventLog(output / EVENTS, lambda: 2), CheckpointStore(output / "checkpoints", 9)
    watch = watch_of(config, output, 2, log, store)
    assert watch is not None
    assert watch.watched.rows == rows[:2]
    assert watch_of(online(recipe, f"run.output_dir={output}", "drift=null"), output, 2, log, store) is None
