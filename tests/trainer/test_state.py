"""The driver's memory survives a checkpoint exactly."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
from reasoner_rl.loops.state import DriverState

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.prompts.read import read_problems
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

GROUP = ScoredGroup(
    Prompt("train/3", (5, 6), 'says "ü\u2028\n"', "4", "math", {"index": 3, "nested": {"a": [1, 2]}}),
    (
        Rollout((7, 8, 2), (-0.1, -1 / 3, -math.pi * 1e-20), "stop", 4, "four"),
        Rollout((9,), (-2.5,), "length", 3, ""),
    ),
    (
        Reward(0.1 + 0.2, 1.0, {"answer": 1.0, "overlong": -0.7}, extracted="4"),
        Reward(-1.0, 0.0, {}, status="timeout", trained=False),
    ),
)


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    sampler = PromptSampler(7, seed=1, shuffle=True)
    sampler.take(10)
    state = DriverState(
        step=12,
        version=13,
        seconds=1 / 3,
        sampler=sampler.state(),
        surplus=[GROUP, GROUP],
        all_right=["train/1", "train/3"],
        evaluations={"0": {"heldout": {"accuracy": 0.1}}, "10": {}},
    )
    state.save(tmp_path)
    loaded = DriverState.load(tmp_path)
    assert loaded == state
    assert isinstance(loaded.surplus[0].prompt.token_ids, tuple)
    assert loaded.surplus[0].policy_version == 3
    again = PromptSampler(7, seed=1, shuffle=True)
    again.restore(loaded.sampler)
    assert again.take(20) == sampler.take(20)


def test_columns_that_json_does_not_know_come_back_too(tmp_path: Path) -> None:
    row = {
        "problem": "p",
        "answer": 1,
        "day": date(2024, 2, 3),
        "price": Decimal("1.5"),
        "x": float("nan"),
        "raw": b"x",
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    [problem], _ = read_problems(DatasetConfig(path=tmp_path / "a.parquet"))
    prompt = dataclasses.replace(GROUP.prompt, extra_info=problem.extra_info)
    state = DriverState(surplus=[dataclasses.replace(GROUP, prompt=prompt)])
    state.save(tmp_path)
    assert DriverState.load(tmp_path) == state


def test_a_new_state_comes_back_too(tmp_path: Path) -> None:
    DriverState().save(tmp_path)
    assert DriverState.load(tmp_path) == DriverState()


def test_a_checkpoint_without_the_newer_fields_loads(tmp_path: Path) -> None:
    DriverState(step=3, surplus=[GROUP]).save(tmp_path)
    data = json.loads((tmp_path / "driver.json").read_text())
    del data["all_right"]
    (tmp_path / "driver.json").write_text(json.dumps(data))
    assert DriverState.load(tmp_path) == DriverState(step=3, surplus=[GROUP])


def test_people_can_read_it(tmp_path: Path) -> None:
    DriverState(step=3, surplus=[GROUP]).save(tmp_path)
    data = json.loads((tmp_path / "driver.json").read_text())
    assert data["step"] == 3
    assert data["surplus"][0]["rollouts"][0]["text"] == "four"
