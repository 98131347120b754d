"""Traces of chosen training steps: run.profile."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.trace import traced
from reasoner_rl.trainer.train import train

Recipe = Callable[..., Path]


def test_only_the_steps_asked_for_are_traced(write_recipe: Recipe, tmp_path: Path) -> None:
    config = load_recipe(write_recipe(), ["run.profile=2", "run.steps=2"])
    assert isinstance(config, OnlineConfig)
    train(config)
    [trace] = (config.run.output_dir / "profile").iterdir()
    assert trace.name == "step_2.json.gz"
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    named = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert {"step", "generate", "prefill", "decode", "reward", "prepare", "update", "sync"} <= named
    assert any(name.startswith("Optimizer.step") for name in named)
    assert any(event["name"] == "aten::mm" for event in events)


def test_nothing_is_left_of_a_step_that_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with traced(tmp_path / "profile" / "step_1.json.gz"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "steps"), [("3", [3]), ("[1,4]", [1, 4]), ("2-4", [2, 3, 4]), ("[]", []), ("3-3", [3])]
)
def test_a_step_a_list_or_a_range(write_recipe: Recipe, given: str, steps: list[int]) -> None:
    config: Any = load_recipe(write_recipe(), [f"run.profile={given}", "run.steps=9"])
    assert config.run.profile == steps


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.profile=10", "run.steps=9"], "run.profile names step 10, and run.steps is 9"),
        (["run.profile=4-2", "run.steps=9"], "the range '4-2' ends before it begins"),
        (["run.profile=0"], "greater than or equal to 1"),
        (["run.profile=[soon]"], "valid integer"),
        (["run.profile=1", "run.steps=9", "cluster.kind=ray"], "has no effect with cluster.kind 'ray'"),
    ],
)
def test_what_is_refused(write_recipe: Recipe, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.profile") as caught:
        load_recipe(write_recipe(), overrides)
    assert message in str(caught.value)


def test_an_evaluation_traces_nothing(write_recipe: Recipe) -> None:
    config: Any = load_recipe(write_recipe(), ["run.profile=1", "run.steps=9"])
    evaluation = EvalConfig.of_training(config, "weights")
    assert evaluation.run.profile == []
    with pytest.raises(ValueError, match=r"run\.profile .* in an evaluation"):
        EvalConfig.model_validate({**evaluation.model_dump(), "run": config.run.model_dump()})
