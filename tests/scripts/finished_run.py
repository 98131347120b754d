"""What the comparisons' tests put in the place of runs: a program by the name of another, and what a run leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import dump_recipe, load_recipe


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, text: str) -> None:
    """Make ``text`` the program that is called by ``name``; it is kept in ``folder``/bin."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")


def write_training(
    folder: Path,
    recipe: str,
    rows: Sequence[Mapping[str, Any]],
    evaluations: Mapping[int, Mapping[str, float]],
    report: Callable[[int], tuple[float, float]] = lambda step: (30.0, 0.25),
) -> None:
    """Lay out what a training run leaves: ``rows`` of metrics, and evaluations as step -> problem -> accuracy.

    report: mean response tokens and truncated share of the evaluation after a step.
    """
    (folder / "evaluations").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe(recipe)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reports = {}
    for step, accuracies in evaluations.items():
        tokens, truncated = report(step)
        reports[str(step)] = {"heldout": {"mean_response_tokens": tokens, "truncated_share": truncated}}
        lines = [
            {"step": step, "uid": p, "prompt": p, "accuracy": a}
            for p, a in accuracies.items()
            for _ in range(2)
        ]
        file = folder / "evaluations" / f"step_{step:06d}_heldout.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"evaluations": reports}))
