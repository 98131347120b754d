"""The driver's memory survives a checkpoint exactly."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import DataError, UserError
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.prompts.read import read_problems
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.sources.online import SURPLUS, OnlineSource
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

GROUP = ScoredGroup(
    Prompt("train/3", (5, 6), 'says "ü\u2028\n"', "4", "math", {"index": 3, "nested": {"a": [1, 2]}}),
    (
        Rollout((7, 8, 2), tuple(torch.tensor([-0.1, -1 / 3, -math.pi * 1e-20]).tolist()), "stop", 4, "four"),
        Rollout((9,), (-2.5,), "length", 3, ""),
    ),
    (
        Reward(0.1 + 0.2, 1.0, {"answer": 1.0, "overlong": -0.7}, extracted="4"),
        Reward(-1.0, 0.0, {}, status="timeout", trained=False),
    ),
)


def online_source() -> tuple[OnlineSource, OrderedSampler]:
    """A source over 7 prompts, two of which make a step, with nothing that generates."""
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "batch": {"prompts_per_step": 2, "prompts_per_update": 2},
            "logging": {"progress": False},
        }
    )
    sampler, nothing = OrderedSampler(7, seed=1, shuffle=True), _Nothing()
    prompts = [Prompt(f"train/{n}", (n,), "", "", "") for n in range(7)]
    return OnlineSource(config, prompts, sampler, nothing, nothing, PhaseTimer()), sampler


class _Nothing:
    """Stands for what a step whose batch is full of surplus does not use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def source_state(sampler: OrderedSampler, folder: Path, *groups: ScoredGroup) -> dict[str, Any]:
    """The state of a source, whose surplus groups are written into ``folder``."""
    write_rollouts(folder / SURPLUS, 12, groups)
    return {"sampler": sampler.state(), "all_right": ["train/1", "train/3"]}


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    sampler = OrderedSampler(7, seed=1, shuffle=True)
    sampler.take(10)
    first, second = tmp_path / "first", tmp_path / "second"
    saved = source_state(sampler, first, GROUP, GROUP)
    source, own = online_source()
    source.restore(saved, first)
    state = DriverState(
        step=12,
        version=13,
        seconds=1 / 3,
        source=source.state(),
        algorithm={"kl_coefficient": 0.1 + 0.2},
        evaluations={"0": {"heldout": {"accuracy": 0.1}}, "10": {}},
    )
    state.save(second)
    source.save(second, 12)
    loaded = DriverState.load(second)
    assert dataclasses.replace(loaded, source={}) == dataclasses.replace(state, source={})
    again, own = online_source()
    again.restore(loaded.source, second)
    assert again.state() == source.state() == saved
    assert own.take(20) == sampler.take(20)
    again, own = online_source()
    again.restore(loaded.source, second)
    batch = again.next(13, version=4)
    assert batch.groups == [GROUP, GROUP], "the surplus is a whole batch"
    assert isinstance(batch.groups[0].prompt.token_ids, tuple)
    assert batch.groups[0].policy_version == 3


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
    group = dataclasses.replace(
        GROUP, prompt=dataclasses.replace(GROUP.prompt, extra_info=problem.extra_info)
    )
    source, sampler = online_source()
    source.restore(source_state(sampler, tmp_path, group, group), tmp_path)
    assert source.next(1, version=4).groups == [group, group]


def test_a_new_state_comes_back_too(tmp_path: Path) -> None:
    DriverState().save(tmp_path)
    assert DriverState.load(tmp_path) == DriverState()


def test_a_checkpoint_without_the_newer_fields_loads(tmp_path: Path) -> None:
    DriverState(step=3, source={"position": 4}).save(tmp_path)
    data = json.loads((tmp_path / "driver.json").read_text())
    del data["algorithm"], data["data"]
    (tmp_path / "driver.json").write_text(json.dumps(data))
    assert DriverState.load(tmp_path) == DriverState(step=3, source={"position": 4})


@pytest.mark.parametrize(("written", "named"), [(None, 1), (2, 2)])
def test_another_versions_checkpoint_is_named(tmp_path: Path, written: int | None, named: int) -> None:
    older: dict[str, Any] = {"step": 3, "version": 3, "sampler": {}, "surplus": [], "all_right": []}
    (tmp_path / "driver.json").write_text(json.dumps(older | ({"format": written} if written else {})))
    with pytest.raises(UserError) as error:
        DriverState.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/driver.json has format {named}, and this version of reasoner_rl resumes from format 3: finish "
        "the run with the version that began it, or choose another run.output_dir for a new run, which can start from "
        "exported weights (model.path)"
    )


def test_people_can_read_it(tmp_path: Path) -> None:
    source, sampler = online_source()
    source.restore(source_state(sampler, tmp_path, GROUP), tmp_path)
    DriverState(step=3, source=source.state()).save(tmp_path)
    assert json.loads((tmp_path / "driver.json").read_text())["step"] == 3
    assert pyarrow.parquet.read_table(tmp_path / SURPLUS)["response"].to_pylist() == ["four", ""]


def test_surplus_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source, sampler = online_source()
    state = source_state(sampler, tmp_path, GROUP)
    (tmp_path / SURPLUS).write_bytes((tmp_path / SURPLUS).read_bytes()[:-9])
    with pytest.raises(
        DataError, match=rf"{SURPLUS}: cannot be read as parquet: Parquet magic bytes not found"
    ):
        source.restore(state, tmp_path)


def test_a_bit_that_turned_over_in_what_was_added_later_is_found(tmp_path: Path) -> None:
    """Each bit of the file in turn: it is refused, or what is read is what was saved."""
    state = DriverState(step=3, seconds=2.5)
    state.save(tmp_path)
    state.evaluations = {"3": {"test": {"accuracy": 0.25, "pass_at": {"1": 0.25}, "gap": math.nan}}}
    state.save_later(tmp_path)
    file = tmp_path / "later.json"
    whole, expected = file.read_bytes(), DriverState.load(tmp_path)
    assert expected.evaluations["3"]["test"] == {"accuracy": 0.25, "pass_at": {"1": 0.25}, "gap": None}
    for bit in range(8 * len(whole)):
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        file.write_bytes(turned)
        try:
            found = DriverState.load(tmp_path)
        except (ValueError, TypeError):  # of which resuming makes a message
            continue
        assert found == expected, bit
    file.write_text('{"seconds": 7.5}')
    assert DriverState.load(tmp_path).seconds == 7.5, "of earlier versions, without a hash"
