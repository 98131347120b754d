"""Simulated prompt selection: what is fitted to records, and steps that are filled without a model."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy
import pytest
from scipy import stats

from reasoner_rl.config.data import PromptSelectionConfig
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.prompts.selection import Outcome, SelectingSampler
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "selection_simulated.py"


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def group(uid: str, rights: list[float]) -> ScoredGroup:
    rollouts = [Rollout((1,), (-1.0,), "stop", 0, "") for _ in rights]
    rewards = [Reward(right, right, {}) for right in rights]
    return ScoredGroup(Prompt(uid, (0,), "", "", ""), rollouts, rewards)


def test_prompts_that_do_not_differ_have_no_correlation(bench: dict[str, Any]) -> None:
    random = numpy.random.default_rng(0)
    alike = bench["population_of"]([bench["Group"]("", float(r), 8) for r in random.binomial(8, 0.9, 20_000)])
    assert alike.correlation() == pytest.approx(0.0, abs=0.004)
    rights = stats.betabinom(8, 1.0, 3.0).rvs(20_000, random_state=random)
    differing = bench["population_of"]([bench["Group"]("", float(r), 8) for r in rights])
    assert differing.correlation() == pytest.approx(0.2, abs=0.01)


def test_steps_are_filled_up_to_the_cap(bench: dict[str, Any]) -> None:
    """Of four prompts two are never mixed; the other two nearly always are."""
    rates, fill = numpy.array([0.0, 1.0, 0.5, 0.5]), bench["Fill"](wanted=2, cap=3, group_size=64)
    sampler = SelectingSampler(4, 0, 64, PromptSelectionConfig(sharpness=0))
    counts = bench["simulate"](rates, sampler, fill, 40, 0)
    assert {generated for generated, _ in counts} == {2, 3}
    assert all(kept == 2 for generated, kept in counts if generated == 2)
    selecting = SelectingSampler(
        4, 0, 64, PromptSelectionConfig(floor=1e-6, sharpness=4, half_life_steps=None)
    )
    selected = bench["simulate"](rates, selecting, fill, 40, 0)
    assert all(kept == 2 for _, kept in selected[20:])
    assert sum(g for g, _ in selected[20:]) < 45 < sum(g for g, _ in counts[20:])


def test_records_are_read_from_a_step_on(bench: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    write_rollouts(tmp_path / "rollouts" / "step_000001.parquet", 1, [group("a", [1.0, 1.0])])
    write_rollouts(
        tmp_path / "rollouts" / "step_000002.parquet",
        2,
        [group("a", [1.0, 0.0]), group("b", [0.0, 0.0, 0.0])],
    )
    second = [bench["Group"]("a", 1.0, 2), bench["Group"]("b", 0.0, 3)]
    assert list(bench["recorded"](tmp_path, 1)) == [bench["Group"]("a", 2.0, 2), *second]
    assert list(bench["recorded"](tmp_path, 2)) == second
    assert [group.mixed for group in second] == [True, False]


def test_a_run_is_weighted_by_what_the_others_recorded(bench: dict[str, Any]) -> None:
    """Of the prompts that both runs drew, m is mixed in both and r all right in both; the others do not count."""
    new = bench["Group"]
    runs = [[new("m", 4.0, 8), new("r", 8.0, 8), new("x", 4.0, 8)], [new("r", 8.0, 8), new("m", 4.0, 8)]]
    config = PromptSelectionConfig(sharpness=2)
    count, uniform, weighted = bench["crossed"](runs, {"sharpness": 2}, 8)
    assert (count, uniform) == (4, 0.5)
    parts = []
    for others in ([(1, 8.0), (0, 4.0)], [(0, 4.0), (1, 8.0), (2, 4.0)]):
        sampler = SelectingSampler(3, 0, 8, config, [Outcome(i, right, 8) for i, right in others])
        parts.append([1 / weight for weight in sampler.weights([0, 1])])
    assert weighted == pytest.approx(sum(m for m, _ in parts) / sum(m + r for m, r in parts))
    assert weighted > 0.8
    assert bench["crossed"](runs[:1], {}, 8)[0] == 0


def test_the_report(bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rollouts").mkdir()
    groups = [group(str(i), [1.0] * (i % 9) + [0.0] * (8 - i % 9)) for i in range(90)]
    write_rollouts(tmp_path / "rollouts" / "step_000001.parquet", 1, groups)
    file = tmp_path / "found.json"
    words = ["--size", "60", "--steps", "3", "--seeds", "2", "--json", str(file)]
    bench["main"](["quickstart", str(tmp_path), *words])
    report = json.loads(file.read_text())
    assert report["about"]["pass rate"] == pytest.approx(0.5)
    assert report["about"]["mixed"] == pytest.approx(7 / 9)
    assert len(report["groups_per_kept"]["uniform"]) == 2
    assert "60 prompts, 3 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench["main"](["quickstart", str(tmp_path / "none"), *words])
    assert "has no rollouts" in capsys.readouterr().err
