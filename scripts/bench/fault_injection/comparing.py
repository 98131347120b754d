"""Whether two runs' folders hold the same, to the bit, but for what a clock or the memory says; and what is torn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml

from reasoner_rl.training.checkpoint import CheckpointStore, verify

MEASURED = ("time/", "speed/", "memory/")  # metrics that differ from run to run
CLOCKS = frozenset({"seconds", "started", "time", "made", "command"})  # keys of JSON
# Manifests are of files that are compared, and train.md is train.json for people; .metadata of PyTorch's checkpoints
# holds names of folders.
_LEFT_OUT = ("manifest.json", ".metadata", "later.json", "events.jsonl", "run.json", ".lock", "train.md")
HALF_WRITTEN = (".partial_*", ".*.tmp", "*.tmp", ".*.partial", ".*.replaced", ".latest")


def differences(run: Path, reference: Path, *, trains: bool = True) -> list[str]:
    """How the folder of a finished run differs from that of an undisturbed one; nothing if they are equal.

    trains: False compares the whole folders, file by file; of a training run's all that is not about its starts.
    """
    found = [f"{path.relative_to(run)} is half-written" for path in half_written(run)]
    if not trains:
        return found + _differing_files(run, reference, "output")
    for name in ("final", "rollouts", "evaluations"):
        found += _differing_files(run / name, reference / name, name)
    found += [
        f"{name} differs"
        for name in ("metrics.jsonl", "summary.json")
        if _differs(run / name, reference / name)
    ]
    return found + _differing_checkpoints(run / "checkpoints", reference / "checkpoints")


def half_written(folder: Path) -> Iterator[Path]:
    """Files and folders with names that writers give to what is not finished."""
    for pattern in HALF_WRITTEN:
        yield from folder.rglob(pattern)


def unreadable(run: Path) -> list[str]:
    """What a killed run has left that cannot be read: of checkpoints and records, each is either whole or absent."""
    problems = []
    for _, checkpoint in CheckpointStore(run / "checkpoints", 1).all():
        try:
            verify(checkpoint)
        except ValueError as error:
            problems.append(str(error))
    for path in (*run.glob("rollouts/step_*"), *run.glob("evaluations/step_*")):
        try:
            contents(path)
        except Exception as error:
            problems.append(f"{path.name}: {type(error).__name__}: {error}")
    return problems


def contents(path: Path) -> Any:
    """What a file says, without clocks: rows or values where the format is known, bytes otherwise."""
    if path.name == "metrics.jsonl":
        return [_unmeasured(row) for row in _lines(path)]
    if path.suffix == ".jsonl":
        return [_without_clocks(row) for row in _lines(path)]
    if path.suffix == ".json":
        return _without_clocks(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        return table.drop([name for name in ("seconds",) if name in table.column_names])
    if path.name == "recipe.yaml":
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["run"].pop("output_dir")
        tree.pop("cluster", None)  # where it ran
        return tree
    return path.read_bytes()


def _differing_checkpoints(ours: Path, theirs: Path) -> list[str]:
    """Names of all checkpoints and contents of the newest: weights, optimizers, random states, the driver's state."""
    names = [path.name for _, path in CheckpointStore(ours, 1).all()]
    expected = [path.name for _, path in CheckpointStore(theirs, 1).all()]
    if names != expected:
        return [f"checkpoints {names}, and {expected} of the undisturbed run"]
    return _differing_files(ours / names[-1], theirs / names[-1], f"checkpoints/{names[-1]}") if names else []


def _differing_files(ours: Path, theirs: Path, name: str) -> list[str]:
    """Of two folders, but for `_LEFT_OUT`."""
    mine, others = (
        {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in _LEFT_OUT
        }
        for folder in (ours, theirs)
    )
    if mine.keys() != others.keys():
        return [f"{name}: {each} is in one of them only" for each in sorted(mine.keys() ^ others.keys())]
    return [f"{name}/{each} differs" for each in mine if _differs(mine[each], others[each])]


def _differs(ours: Path, theirs: Path) -> bool:
    if not (ours.exists() and theirs.exists()):
        return ours.exists() != theirs.exists()
    mine, other = contents(ours), contents(theirs)
    return not mine.equals(other) if hasattr(mine, "equals") else bool(mine != other)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _unmeasured(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(MEASURED)}


def _without_clocks(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_clocks(value) for key, value in tree.items() if key not in CLOCKS}
    return [_without_clocks(value) for value in tree] if isinstance(tree, list) else tree
