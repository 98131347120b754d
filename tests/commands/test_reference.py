"""Making references of runs, comparing finished runs with them, and following a run while it trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasoner_rl.config.load import dump_recipe, load_recipe
from reasoner_rl.trainer.reference import load_reference, shipped_references


def made_run(folder: Path, seed: int, scores: list[float], *changes: str) -> Path:
    """A run's folder with the two files that a reference is made of."""
    folder.mkdir(parents=True)
    changes = (f"run.seed={seed}", f"run.output_dir={folder}", *changes)
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart", changes)))
    rows = [
        {"step": step, "reward/score": score, "time/step": 1.0} for step, score in enumerate(scores, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def command(command_line: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str]]:
    """Runs the command line in this process: its status, and all that it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        status, out, err = command_line(*arguments)
        return status, out + err

    return run


def test_a_reference_of_runs_and_where_others_leave_it(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    runs = [str(made_run(tmp_path / f"r{seed}", seed, [0.1, 0.2, 0.3 + seed / 100])) for seed in range(3)]
    out = tmp_path / "small.json"
    status, said = command("reference", "make", *runs, "--out", str(out))
    assert (status, "reference of 3 runs" in said) == (0, True)
    made = load_reference(str(out))
    assert (made.recipe, made.seeds, list(made.metrics)) == ("small", [0, 1, 2], ["reward/score"])
    # Records differ, and a key that a run of an older version does not have is that key's default.
    recipe = Path(runs[2]) / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("  tensorboard: true\n", ""))
    assert command("reference", "make", *runs, "--out", str(out))[0] == 0
    assert load_reference(str(out)).metrics == made.metrics
    assert made.metrics["reward/score"].values == [[0.1, 0.2, 0.3], [0.1, 0.2, 0.31], [0.1, 0.2, 0.32]]

    status, said = command("reference", "check", runs[1], "--against", str(out))
    assert (status, "1 metrics at 3 points, with 3 seeds of small: all stayed" in said) == (0, True)
    other = str(made_run(tmp_path / "other", 9, [0.0, 0.0, 0.0]))
    status, said = command("reference", "check", other, "--against", str(out))
    assert status == 5
    assert "reward/score left the reference's band at step 1: 0 is below 0.0" in said

    refused = {
        (str(tmp_path / "none"), runs[1], runs[2]): "is no folder of a run: it has no recipe.yaml",
        (runs[0], runs[1], runs[1]): "must have different seeds; they are 0, 1, 1",
        (runs[0], runs[1]): "at least 3 runs; there are 2",
        (runs[0], runs[1], str(made_run(tmp_path / "long", 7, [0.1], "run.steps=9"))): "differs from",
    }
    for folders, rule in refused.items():
        status, said = command("reference", "make", *folders, "--out", str(tmp_path / "not.json"))
        assert (status, rule in said) == (2, True), said
        assert not (tmp_path / "not.json").exists()
    (tmp_path / "bad.json").write_text('{"recipe": "x"}')
    for name, rule in (
        ("smal", "the shipped references are"),
        (str(tmp_path / "bad.json"), "is no reference"),
    ):
        status, said = command("reference", "check", runs[0], "--against", name)
        assert (status, rule in said) == (2, True), said


def test_a_run_is_followed_while_it_trains(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path], command: Callable[..., tuple[int, str]]
) -> None:
    """A run of an untrained model leaves a reference in which the responses were long, and stays within its own."""
    (tmp_path / "problems.jsonl").write_text(
        '{"problem": "1+1?", "answer": "2"}\n{"problem": "2?", "answer": "2"}\n'
    )
    tree: dict[str, Any] = {
        "recipe": "online",
        "run": {"output_dir": str(tmp_path / "run"), "steps": 3, "threads": 1},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(tmp_path / "problems.jsonl")}},
        "rollout": {"responses_per_prompt": 2, "sampling": {"max_response_tokens": 4}},
        "reward": {"workers": 1},
        "algorithm": {"kind": "grpo"},
        "batch": {"prompts_per_step": 2, "prompts_per_update": 2},
        "logging": {"tensorboard": False},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    for name, length in (("long", 40.0), ("short", 3.5)):
        seeds = [[length - 0.5] * 3, [length] * 3, [length + 0.5] * 3]
        curves = {"response/length_mean": {"steps": [1, 2, 3], "values": seeds}}
        reference = {
            "recipe": name,
            "seeds": [0, 1, 2],
            "made": "2026-11-27",
            "versions": {},
            "metrics": curves,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(reference))
    arguments = ("train", str(tmp_path / "small.yaml"), "--compare-to")
    status, said = command(*arguments, str(tmp_path / "long.json"))
    assert status == 5, said
    assert "response/length_mean left the reference's band at step 1: 4 is below 37.93 to 42.07" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reference"]["left"]["response/length_mean"]["step"] == 1
    # The same again, resumed after its end: what was logged before counts.
    assert command(*arguments, str(tmp_path / "long.json"))[0] == 5
    status, said = command(*arguments, str(tmp_path / "short.json"))
    assert (status, "1 metrics at 3 points, with 3 seeds of short: all stayed" in said) == (0, True), said


@pytest.mark.parametrize("name", sorted(shipped_references()))
def test_shipped_references_are_small_and_whole(name: str) -> None:
    reference = load_reference(name)
    assert len(reference.seeds) >= 3
    assert shipped_references()[name].stat().st_size < 20_000
    assert "reward/score" in reference.metrics
