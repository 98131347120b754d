"""The folder of a run as the report reads it: what is there, and a note for what is missing or broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import DataError, did_you_mean
from reasoner_rl.observability.curves import History, read_history
from reasoner_rl.observability.events import EVENTS, Event, read_events

TRAINING, HELD_OUT = (
    "training",
    "held out: ",
)  # sets of responses: those of training steps, and of each dataset
METRICS = "metrics.jsonl"
_MARKS = (METRICS, "run.json", "evaluation.json", "rollouts", "evaluations")
_RECORD = re.compile(r"step_(?P<step>\d{6,})(?:_(?P<rest>.+))?\.(?P<suffix>parquet|jsonl)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RecordFiles:
    """The files that hold the same responses: of one step and set, dropped groups apart."""

    set: str
    step: int
    dropped: bool
    parquet: Path | None
    jsonl: Path | None


@dataclass(frozen=True, slots=True)
class Run:
    """Everything about a run but its responses."""

    folder: Path
    name: str
    recipe: dict[str, Any]  # key.path -> value, resolved; empty if there is none
    versions: dict[str, str]
    history: History
    events: list[Event]
    reports: list[
        dict[str, Any]
    ]  # of `reasoner-rl eval`, one per dataset; evaluations while training are metrics
    records: list[RecordFiles]
    notes: list[str]  # what is missing or cannot be read, for people


def read_run(folder: Path, name: str) -> Run:
    """Read a run's folder. Raises DataError if there is no such folder, or if it is of no run."""
    check_is_run(folder)
    notes: list[str] = []
    history: History = {}
    try:
        history = read_history(folder / METRICS)
    except (DataError, OSError) as error:
        notes.append(f"no learning curves: {error}")
    if not history and not notes:
        notes.append(f"no learning curves: {folder / METRICS} is missing or empty")
    events: list[Event] = []
    try:
        events = read_events(folder / EVENTS)
    except (DataError, OSError) as error:
        notes.append(f"no events: {error}")
    versions = {key: str(value) for key, value in _json(folder / "run.json", notes).items()}
    reports = _json(folder / "evaluation.json", notes, expected=False).get("reports", [])
    if not (isinstance(reports, list) and all(isinstance(report, dict) for report in reports)):
        notes.append(f"{folder / 'evaluation.json'}: `reports` is not a list of reports, and is left out")
        reports = []
    records = find_records(folder, notes)
    if not records:
        notes.append(
            f"no responses: {folder / 'rollouts'} and {folder / 'evaluations'} hold no records "
            "(logging.rollouts is 'none', the run learns from examples, or the files were deleted)"
        )
    return Run(folder, name, read_recipe(folder, notes), versions, history, events, reports, records, notes)


def check_is_run(folder: Path) -> None:
    """Raise DataError unless ``folder`` is the output_dir of a run or of an evaluation."""
    if not folder.exists():
        near = did_you_mean(folder.name, [path.name for path in folder.parent.glob("*") if path.is_dir()])
        raise DataError(f"{folder}: there is no such folder.{near}")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; name the folder of a run, its run.output_dir")
    if not _is_run(folder):
        inside = sorted(
            {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/recipe.yaml")}
        )
        runs = [str(path) for path in inside if _is_run(path) and path.parent.name != "checkpoints"]
        advice = f" There are runs inside: {', '.join(runs[:8])}" if runs else ""
        raise DataError(f"{folder} is not the folder of a run: it has none of {', '.join(_MARKS)}.{advice}")


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _MARKS)


def short_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as few of its last parts as distinguish them; of a single folder the last two."""
    parts = [folder.resolve().parts for folder in folders]
    fewest = 2 if len(folders) == 1 else 1
    for count in range(fewest, max(fewest, *map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise DataError(f"the same run is named twice: {', '.join(map(str, folders))}")


def find_records(folder: Path, notes: list[str]) -> list[RecordFiles]:
    """The records in rollouts/ and evaluations/, in order; files with other names are noted."""
    found: dict[tuple[str, int, bool], dict[str, Path]] = {}
    strangers = []
    for place in ("rollouts", "evaluations"):
        for path in sorted((folder / place).glob("*")):
            match = _RECORD.fullmatch(path.name)
            rest = match["rest"] if match else None
            if match and place == "rollouts" and rest in (None, "dropped"):
                key = (TRAINING, int(match["step"]), rest is not None)
            elif match and place == "evaluations" and rest:
                key = (HELD_OUT + unquote(rest), int(match["step"]), False)
            else:
                if not path.name.startswith("."):  # a file that is being written
                    strangers.append(path.name)
                continue
            found.setdefault(key, {})[match["suffix"]] = path
    if strangers:
        notes.append(f"not read, for their names are not those of records: {', '.join(strangers[:5])}")
    ordered = sorted(found, key=lambda key: (key[0] != TRAINING, key))
    return [RecordFiles(*key, found[key].get("parquet"), found[key].get("jsonl")) for key in ordered]


def record_of_file(path: Path) -> RecordFiles:
    """A single file as a record. Its step is taken from its name, and is 0 where that is another name."""
    if path.suffix not in (".parquet", ".jsonl"):
        raise DataError(
            f"{path}: must end in .parquet or .jsonl, as the records in rollouts/ and evaluations/ do"
        )
    match = _RECORD.fullmatch(path.name)
    parquet, jsonl = (path, None) if path.suffix == ".parquet" else (None, path)
    step, dropped = (int(match["step"]), match["rest"] == "dropped") if match else (0, False)
    return RecordFiles(path.name, step, dropped, parquet, jsonl)


def steps_to_show(records: Iterable[RecordFiles], every: int) -> list[RecordFiles]:
    """Of each set every so many-th recorded step, and the last."""
    records = list(records)
    shown = set()
    for name in {record.set for record in records}:
        steps = sorted({record.step for record in records if record.set == name})
        shown |= {(name, step) for step in (*steps[::every], steps[-1])}
    return [record for record in records if (record.set, record.step) in shown]


def _json(path: Path, notes: list[str], *, expected: bool = True) -> dict[str, Any]:
    if not path.exists():
        if expected:
            notes.append(f"{path} is missing")
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def read_recipe(folder: Path, notes: list[str]) -> dict[str, Any]:
    """A run's resolved recipe as key.path -> value; empty, with a note, if there is none."""
    path = folder / "recipe.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        notes.append(f"no configuration: {path}: {error}")
        return {}
    return flat_keys(tree) if isinstance(tree, dict) else {}
