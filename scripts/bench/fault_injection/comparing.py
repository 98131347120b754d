"""Whether two runs' folders hold the same, to the bit, but for what a clock or the memory says; and what is torn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml
from safetensors.torch import load_file

from reasoner_rl.training.checkpoint import CheckpointStore, verify

MEASURED = ("time/", "speed/", "memory/")  # metrics that differ from run to run
# Keys of JSON that say when, and after how many deaths of workers.
CLOCKS = frozenset({"seconds", "started", "time", "made", "command", "restarts"})
# Manifests are of files that are compared, and train.md is train.json for people; .metadata of PyTorch's checkpoints
# holds names of folders.
_LEFT_OUT = ("manifest.json", ".metadata", "later.json", "events.jsonl", "run.json", ".lock", "train.md")
_TENSORS = (".distcp", ".pt")  # files of a rank
# Of the tests that compare two ranks with one: Adam divides by gradients that vanish.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-4
HALF_WRITTEN = (".partial_*", ".*.tmp", "*.tmp", ".*.partial", ".*.replaced", ".latest")


def differences(run: Path, reference: Path, *, trains: bool = True, rounding: bool = False) -> list[str]:
    """How the folder of a finished run differs from that of an undisturbed one; nothing if they are equal.

    trains: False compares the whole folders, file by file; of a training run's all that is not about its starts.
    rounding: allow numbers to differ by `_RELATIVE` and `_ABSOLUTE`, and leave out tensors of checkpoints. On several
    ranks it depends on time which rank draws a response, beside which others, and so does the rounding of its logprobs.
    """
    found = [f"{path.relative_to(run)} is half-written" for path in half_written(run)]
    if not trains:
        return found + _differing_files(run, reference, "output", rounding)
    for name in ("final", "rollouts", "evaluations"):
        found += _differing_files(run / name, reference / name, name, rounding)
    found += [
        f"{name} differs"
        for name in ("metrics.jsonl", "summary.json")
        if _differs(run / name, reference / name, rounding)
    ]
    return found + _differing_checkpoints(run / "checkpoints", reference / "checkpoints", rounding)


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


def _differing_checkpoints(ours: Path, theirs: Path, rounding: bool) -> list[str]:
    """Names of all checkpoints and contents of the newest: weights, optimizers, random states, the driver's state."""
    names = [path.name for _, path in CheckpointStore(ours, 1).all()]
    expected = [path.name for _, path in CheckpointStore(theirs, 1).all()]
    if names != expected:
        return [f"checkpoints {names}, and {expected} of the undisturbed run"]
    if not names:
        return []
    return _differing_files(ours / names[-1], theirs / names[-1], f"checkpoints/{names[-1]}", rounding)


def _differing_files(ours: Path, theirs: Path, name: str, rounding: bool) -> list[str]:
    """Of two folders, but for `_LEFT_OUT`."""
    mine, others = (
        {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in _LEFT_OUT and not (rounding and path.suffix in _TENSORS)
        }
        for folder in (ours, theirs)
    )
    if mine.keys() != others.keys():
        return [f"{name}: {each} is in one of them only" for each in sorted(mine.keys() ^ others.keys())]
    return [f"{name}/{each} differs" for each in mine if _differs(mine[each], others[each], rounding)]


def _differs(ours: Path, theirs: Path, rounding: bool) -> bool:
    if not (ours.exists() and theirs.exists()):
        return ours.exists() != theirs.exists()
    if rounding:
        return not nearly_equal(_numbers(ours), _numbers(theirs))
    mine, other = contents(ours), contents(theirs)
    return not mine.equals(other) if hasattr(mine, "equals") else bool(mine != other)


def _numbers(path: Path) -> Any:
    """The same as `contents`, with tables and tensors as lists."""
    if path.suffix == ".safetensors":
        return {name: tensor.tolist() for name, tensor in load_file(path).items()}
    found = contents(path)
    return found.to_pylist() if isinstance(found, pyarrow.Table) else found


def nearly_equal(ours: Any, theirs: Any) -> bool:
    """Whether two trees are equal but for rounding."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(nearly_equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(nearly_equal, ours, theirs))
    return bool(ours == theirs)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _unmeasured(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(MEASURED)}


def _without_clocks(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_clocks(value) for key, value in tree.items() if key not in CLOCKS}
    return [_without_clocks(value) for value in tree] if isinstance(tree, list) else tree
