"""The ablation's rows differ exactly as they are described, are run once, and are compared with their neighbours."""

from __future__ import annotations

import json
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from finished_run import put_on_path, write_training

from reasoner_rl.config.load import load_recipe
from reasoner_rl.errors import ConfigError, UserError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ablation.py"
OUT = Path("out")
ROWS = [
    "GRPO",
    "+ overlong filtering",
    "+ clip-higher",
    "+ soft overlong punishment",
    "+ token-level loss",
    "+ dynamic sampling (DAPO)",
]
BUFFERS = {"quickstart": 24, "ladder": 15}


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(params=["quickstart", "ladder"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flatten(value, f"{path}.{key}").items()}
    return {path.removeprefix("."): tree}


def recipe(ablation: dict[str, Any], task: str, row: str, seed: int = 0, *settings: str) -> dict[str, Any]:
    """The recipe of a row's command, with every key."""
    plan = ablation["Plan"](ablation["TASKS"][task], "start/{seed}", settings)
    method = ablation["row_method"](plan, row)
    [command] = method.commands(seed, method.folder(seed, OUT))
    assert command.words[:2] == ("reasoner-rl", "train")
    config = load_recipe(command.words[2], command.words[3:])
    assert config.run.output_dir == command.folder
    return flatten(config.model_dump(mode="json"))


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    assert before.keys() == after.keys()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    changed.pop("run.output_dir")
    return changed


def test_the_first_row_is_grpo_without_kl(ablation: dict[str, Any], task: str) -> None:
    assert list(ablation["techniques"](ablation["TASKS"][task])) == ROWS
    first = recipe(ablation, task, ROWS[0])
    assert first["algorithm.loss.clip_low"] == first["algorithm.loss.clip_high"] == 0.2
    assert first["algorithm.loss.aggregation"] == "seq-mean-token-mean"
    assert first["algorithm.loss.kl.coefficient"] == 0
    assert first["algorithm.advantage"] == "group_std"
    assert first["algorithm.dynamic_sampling.enabled"] is False
    assert first["reward.overlong.buffer_tokens"] == 0
    assert first["reward.overlong.mask_truncated"] is False
    assert first["run.threads"] == 1


def test_each_row_adds_one_technique_to_the_row_above(ablation: dict[str, Any], task: str) -> None:
    recipes = [recipe(ablation, task, row) for row in ROWS]
    assert [difference(above, row) for above, row in pairwise(recipes)] == [
        {"reward.overlong.mask_truncated": (False, True)},
        {"algorithm.loss.clip_high": (0.2, 0.28)},
        {
            "reward.overlong.mask_truncated": (True, False),
            "reward.overlong.buffer_tokens": (0, BUFFERS[task]),
        },
        {"algorithm.loss.aggregation": ("seq-mean-token-mean", "token-mean")},
        {"algorithm.dynamic_sampling.enabled": (False, True)},
    ]


def test_the_last_row_is_the_recipe_of_dapo(ablation: dict[str, Any], task: str) -> None:
    shipped = flatten(load_recipe(ablation["TASKS"][task].recipe).model_dump(mode="json"))
    changed = difference(shipped, recipe(ablation, task, ROWS[-1]))
    assert set(changed) == {"model.path", "data.train.path", "evaluation.datasets", "run.threads"}


def test_a_seed_changes_the_seed_the_start_and_the_folder(ablation: dict[str, Any]) -> None:
    first, second = (recipe(ablation, "ladder", ROWS[2], seed) for seed in (0, 1))
    assert second["run.output_dir"] == "out/clip_higher/seed_1/train"
    changed = difference(first, second)
    assert changed["run.seed"] == (0, 1)
    assert changed["model.path"] == ("start/0/warm_start/final", "start/1/warm_start/final")
    assert set(changed) == {"run.seed", "model.path", "data.train.path", "evaluation.datasets"}


def test_settings_hold_for_every_row_but_do_not_undo_its_technique(ablation: dict[str, Any]) -> None:
    changed = recipe(ablation, "ladder", ROWS[0], 0, "run.steps=7", "algorithm.loss.clip_high=0.5")
    assert changed["run.steps"] == 7
    assert changed["algorithm.loss.clip_high"] == 0.2
    with pytest.raises(ConfigError, match=r"Did you mean 'run\.steps'\?"):
        recipe(ablation, "ladder", ROWS[0], 0, "run.stepz=7")


def test_an_unknown_row_is_refused(ablation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no row 'PPO'; rows: GRPO, \+ overlong filtering"):
        ablation["row_overrides"](ablation["TASKS"]["ladder"], "PPO")


# Stands for reasoner-rl: copies what a finished run leaves to the output folder that its words name, with an accuracy
# that depends on whether dynamic sampling is on. It fails for the seed in $FAILING.
PROGRAM = """#!/bin/sh
echo "$@" >> "$LOG"
for word in "$@"; do
  case "$word" in run.output_dir=*) out=${word#run.output_dir=} ;; run.seed=*) seed=${word#run.seed=} ;; esac
done
if [ "$seed" = "$FAILING" ]; then echo "seed $seed fails"; exit 2; fi
mkdir -p "$out"
case "$*" in *dynamic_sampling.enabled=true*) row=dapo ;; *) row=grpo ;; esac
cp -r "$FINISHED/$row"/. "$out"
"""


def write_finished(folder: Path, accuracy: float, tokens: float) -> None:
    """What a run of two steps leaves: two problems, one of them right at the start, ``accuracy`` of both at the end."""
    row = {"time/step": 3.0, "groups/generated": 32.0, "groups/kept": 32.0, "response/length_mean": tokens}
    rows = [{"step": 0, "eval/heldout/accuracy": 0.5}, {"step": 1, **row}]
    rows.append({"step": 2, **row, "eval/heldout/accuracy": accuracy})
    evaluations = {0: {"p": 0.0, "q": 1.0}, 2: {"p": accuracy, "q": accuracy}}
    write_training(folder, "ladder_dapo", rows, evaluations)


def test_the_whole_command(
    ablation: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A missing warm start is told; a failure leaves a report of the other seeds; then all is there, and run once."""
    write_finished(tmp_path / "finished" / "grpo", 0.5, 20.0)
    write_finished(tmp_path / "finished" / "dapo", 0.75, 30.0)
    put_on_path(monkeypatch, tmp_path, "reasoner-rl", PROGRAM)
    monkeypatch.setenv("FINISHED", str(tmp_path / "finished"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAILING", "1")
    start, out = tmp_path / "ladder_{seed}", tmp_path / "out"
    words = ["--task", "ladder", "--seeds", "0", "1", "--from", str(start), "--out", str(out)]
    options = ablation["parse"](words)

    with pytest.raises(
        ConfigError,
        match=r"ladder_0: no warm_start/final in it; run first: bash scripts/ladder\.sh --seed 0 --out .*ladder_0$",
    ):
        ablation["run"](options)
    assert not out.exists()
    for seed in (0, 1):
        (tmp_path / f"ladder_{seed}" / "warm_start" / "final").mkdir(parents=True)

    with pytest.raises(
        UserError, match=r"^6 runs failed; the same command tries again:\nGRPO, seed 1; log in "
    ):
        ablation["run"](options)
    assert sorted(json.loads((out / "ablation.json").read_text())["runs"]) == sorted(ROWS)
    assert "seeds 0: " in capsys.readouterr().out

    monkeypatch.setenv("FAILING", "none")
    for _ in range(2):
        ablation["run"](options)
    assert len((tmp_path / "log").read_text().splitlines()) == 6 + 6 + 6
    text = (out / "ablation.md").read_text().splitlines()
    assert "| + token-level loss | 50.0% | 50.0%, 50.0% | 30.0 | 25.0% | 10,240 | 100% | 6 |" in text
    assert "| + dynamic sampling (DAPO) | 75.0% | 75.0%, 75.0% | 30.0 | 25.0% | 15,360 | 100% | 6 |" in text
    for other in ("+ token-level loss", "GRPO"):
        numbers = "+25.0 | unknown | +25.0 to +25.0 | +5,120 | unknown"
        assert f"| + dynamic sampling (DAPO) | {other} | {numbers} |" in text
    assert [line.split("|")[1].strip() for line in text if line.startswith("| +")][5:10] == ROWS[1:]
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--jobs 0", "--jobs 0: must be at least 1"),
        ("--seeds 1 2 1", "--seeds 1 2 1: each seed once"),
        ("--seeds 1 -2", "--seeds -2: must be at least 0"),
        ("--seed 1", "unrecognized arguments: --seed 1"),
    ],
)
def test_impossible_wishes_are_refused(
    ablation: dict[str, Any], words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        ablation["parse"](words.split())
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
