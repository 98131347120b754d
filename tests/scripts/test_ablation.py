"""The ablation's rows differ exactly as they are described, and its table says what the runs left."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reasoner_rl.config.load import dump_recipe, load_recipe
from reasoner_rl.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ablation.py"
START, OUT = Path("start"), Path("out")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


ablation = _load()
ROWS = list(ablation.TECHNIQUES)


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flatten(value, f"{path}.{key}").items()}
    return {path.removeprefix("."): tree}


def recipe(row: str, seed: int = 0, *settings: str) -> dict[str, Any]:
    return flatten(ablation.row_recipe(row, seed, START, OUT, settings).model_dump(mode="json"))


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    assert before.keys() == after.keys()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    changed.pop("run.output_dir")
    return changed


def test_the_first_row_is_grpo_without_kl() -> None:
    first = recipe(ROWS[0])
    assert first["algorithm.loss.clip_low"] == first["algorithm.loss.clip_high"] == 0.2
    assert first["algorithm.loss.aggregation"] == "seq-mean-token-mean"
    assert first["algorithm.loss.kl.coefficient"] == 0
    assert first["algorithm.advantage"] == "group_std"
    assert first["algorithm.dynamic_sampling.enabled"] is False
    assert first["reward.overlong.buffer_tokens"] == 0
    assert first["reward.overlong.mask_truncated"] is False


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, {"reward.overlong.mask_truncated": (False, True)}),
        (2, {"algorithm.loss.clip_high": (0.2, 0.28)}),
        (3, {"reward.overlong.mask_truncated": (True, False), "reward.overlong.buffer_tokens": (0, 24)}),
        (4, {"algorithm.loss.aggregation": ("seq-mean-token-mean", "token-mean")}),
        (5, {"algorithm.dynamic_sampling.enabled": (False, True)}),
    ],
)
def test_each_row_adds_one_technique_to_the_row_above(
    index: int, expected: dict[str, tuple[Any, Any]]
) -> None:
    assert len(ROWS) == 6
    assert difference(recipe(ROWS[index - 1]), recipe(ROWS[index])) == expected


def test_the_last_row_is_the_quickstart() -> None:
    shipped = flatten(load_recipe("quickstart").model_dump(mode="json"))
    changed = difference(shipped, recipe(ROWS[-1]))
    assert set(changed) == {"model.path", "data.train.path", "evaluation.datasets"}


def test_a_seed_changes_the_seed_and_the_folder_only() -> None:
    first, second = recipe(ROWS[2], 0), recipe(ROWS[2], 1)
    assert first["run.output_dir"] == "out/3_clip_higher/seed_0"
    assert second["run.output_dir"] == "out/3_clip_higher/seed_1"
    assert difference(first, second) == {"run.seed": (0, 1)}


def test_settings_hold_for_every_row_but_do_not_undo_its_technique() -> None:
    changed = recipe(ROWS[0], 0, "run.steps=7", "algorithm.loss.clip_high=0.5")
    assert changed["run.steps"] == 7
    assert changed["algorithm.loss.clip_high"] == 0.2


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no row 'PPO'; rows: GRPO, \+ overlong filtering"):
        ablation.row_overrides("PPO")


def finished_run(tmp_path: Path) -> Any:
    """Lay out what a run of two steps leaves."""
    config = ablation.row_recipe(ROWS[0], 5, START, tmp_path, ["run.steps=2"])
    folder = config.run.output_dir
    (folder / "evaluations").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(config))
    report = {"mean_response_tokens": 30.0, "truncated_share": 0.25}
    evaluations = {
        "0": {"heldout": {**report, "accuracy": 0.3}},
        "2": {"heldout": {**report, "accuracy": 0.6}},
    }
    (folder / "summary.json").write_text(json.dumps({"seconds": 12.5, "evaluations": evaluations}))
    rows: list[dict[str, Any]] = [
        {"step": 0, "eval/heldout/accuracy": 0.3},
        {"step": 1, "groups/generated": 32.0, "groups/kept": 32.0},
        {"step": 2, "groups/generated": 64.0, "groups/kept": 40.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = [10, 40, 41, 64]  # the punishment would begin after 64 - 24 tokens
    lines = "".join(json.dumps({"step": 2, "tokens": n}) + "\n" for n in tokens)
    (folder / "evaluations" / "step_000002_heldout.jsonl").write_text(lines)
    return config


def test_a_finished_run_is_read_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished_run(tmp_path)
    monkeypatch.setattr(ablation, "train", lambda config: pytest.fail("trained again"))
    assert ablation.run_once(config) == ablation.Outcome(
        seed=5,
        accuracy=0.6,
        response_tokens=30.0,
        truncated_share=0.25,
        overlong_share=0.5,
        responses_generated=768,  # 96 groups of 8
        responses_used=576,
        seconds=12.5,
        curve={0: 0.3, 2: 0.6},
    )


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path)
    other = ablation.row_recipe(ROWS[0], 5, START, tmp_path, ["run.steps=3"])
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        ablation.run_once(other)


def outcome(**changes: Any) -> Any:
    numbers = {
        "seed": 0,
        "accuracy": 0.5,
        "response_tokens": 30.0,
        "truncated_share": 0.01,
        "overlong_share": 0.1,
        "responses_generated": 2000,
        "responses_used": 2000,
        "seconds": 60.0,
        "curve": {0: 0.2, 9: 0.5},
    }
    return ablation.Outcome(**{**numbers, **changes})


def test_the_table_averages_over_seeds() -> None:
    results = {
        "GRPO": [outcome(), outcome(accuracy=0.7, response_tokens=33.0, curve={0: 0.3, 9: 0.7})],
        "+ filter": [outcome(responses_used=500)],
    }
    lines = ablation.markdown_table(results).splitlines()
    assert "| after 9 steps |" in lines[0]
    assert lines[2:] == [
        "| warm start | 23.3% | | | | | | | | |",
        "| GRPO | 60.0% | 50.0%, 70.0% | 60.0% | 31.5 | 1.0% | 10.0% | 2,000 | 100% | 60 |",
        "| + filter | 50.0% | 50.0% | 50.0% | 30.0 | 1.0% | 10.0% | 2,000 | 25% | 60 |",
    ]


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    ablation.write_report({"GRPO": [outcome()], "+ clip-higher": [outcome(accuracy=0.6)]}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ablation.json",
        "ablation.md",
        "ablation.png",
    ]
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [(row["row"], row["runs"][0]["accuracy"]) for row in rows] == [
        ("GRPO", 0.5),
        ("+ clip-higher", 0.6),
    ]
    assert "algorithm.loss.clip_high=0.28" in rows[1]["overrides"]
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
