"""Reading problems from parquet and JSONL, and dropping the repetitions that published sets are full of.

DAPO-Math-17K holds 17 thousand problems about 100 times each and AIME-2024 30 problems 32 times, so files are
streamed and rows already seen are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from reasoner_rl.config.base import changed_keys
from reasoner_rl.config.data import FLAT_COLUMNS, FLAT_KEYS, DatasetConfig
from reasoner_rl.errors import DataError, did_you_mean
from reward_fns.boxes import Boxes

Message = Mapping[str, str]  # {"role": ..., "content": ...}
Row = Mapping[str, Any]

_PARQUET_BATCH_ROWS = 4096
TOLD_ROWS = 5000
_LONGEST_VALUE = 80
_UTF8_RULE = "must be text that UTF-8 can hold, without lone surrogates"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Written by `reasoner-rl data difficulty`; they become a part of extra_info.
MEASURED_COLUMNS = ("pass_rate", "pass_rate_samples")


@dataclass(frozen=True, slots=True)
class Problem:
    """One task as it stands in the file, before it is rendered."""

    uid: str  # label of the dataset / index of the row, from 0, where it first appears
    messages: tuple[Message, ...]
    ground_truth: str
    data_source: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    solution: str | None = None  # worked solution, for SFT
    row: int = 1  # where it first appears, from 1
    text: str | None = None  # the problem without instructions, where the row says it


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What became of the rows of one dataset."""

    rows: int  # read
    duplicates: int  # rows dropped: all that a reward function or a lesson reads was seen before
    conflicting: int  # problems that appear with different ground truths; all of them are kept
    variants: int  # tasks that differ from another in data_source or extra_info alone; all of them are kept
    kept: int  # problems, after `start` and `limit`
    whole_file: bool  # False: reading ended at `limit`
    bad: tuple[str, ...] = ()  # of each row that was skipped, its file, number, and what is wrong with it
    notes: tuple[str, ...] = ()  # keys without effect

    def __str__(self) -> str:
        rows = f"{self.rows:,} rows read" + ("" if self.whole_file else " (up to the limit)")
        parts = [rows, f"{self.duplicates:,} duplicates dropped", f"{self.kept:,} problems kept"]
        if self.bad:
            parts.insert(1, f"{len(self.bad):,} bad rows skipped (the first: {self.bad[0]})")
        if self.conflicting:
            parts.append(f"{self.conflicting:,} problems with different ground truths (kept)")
        if self.variants:
            parts.append(
                f"{self.variants:,} differing from another in data_source or extra_info alone (kept)"
            )
        return "; ".join([", ".join(parts), *self.notes])


def read_problems(
    config: DatasetConfig, key: str = "", advance: Callable[[int], None] | None = None
) -> tuple[list[Problem], ReadReport]:
    """Read one dataset. Raises DataError naming the file and, for a malformed row, its number and column.

    key: the dataset's place in the recipe, such as data.train, which messages name. advance: called every `TOLD_ROWS`
    rows with their number.
    """
    seen, bad, notes = _Seen(), list[str](), list[str]()

    def refuse(error: DataError) -> None:
        if config.on_bad_row == "error":
            raise error
        bad.append(str(error))

    problems: list[Problem] = []
    count = unique = 0
    whole_file = True
    files = zip(config.paths, config.file_labels, strict=True)
    for problem, known in itertools.chain.from_iterable(
        _read_file(config, Place(path, label, 0, key), seen, refuse, notes) for path, label in files
    ):
        if config.limit is not None and len(problems) == config.limit:
            whole_file = False
            break
        count += 1
        if advance is not None and count % TOLD_ROWS == 0:
            advance(TOLD_ROWS)
        if known and config.deduplicate:
            continue
        unique += 1
        if unique > config.start:
            problems.append(problem)
    if not problems:
        raise DataError(_nothing_left(config, unique, bad))
    rows = count + len(bad)
    return problems, ReadReport(
        rows,
        count - unique,
        seen.conflicting(),
        seen.variants(),
        len(problems),
        whole_file,
        tuple(bad),
        tuple(notes),
    )


def _read_file(
    config: DatasetConfig, file: Place, seen: _Seen, refuse: Callable[[DataError], None], notes: list[str]
) -> Iterator[tuple[Problem, bool]]:
    """The problems of one file, and of each whether one that is the same in all respects was seen before.

    refuse: called with what is wrong with a row, which is passed over if it returns. notes: gets the keys without
    effect.
    """
    read_row, rows = None, False
    for number, row in rows_of_file(file.path, refuse):
        rows, place = True, replace(file, number=number)
        if read_row is None:
            format = _format(config, row)
            read_row = _read_verl_row if format == "verl" else _read_flat_row
            notes += _without_effect(config, file) if format == "verl" else ()
        try:
            problem = read_row(config, place, row)
            if config.columns.id is not None:
                seen.check_id(problem, place)
            known = seen.before(problem)
        except RecursionError:
            refuse(DataError(f"{file.path}, row {number}: brackets are nested too deeply"))
        except DataError as error:
            refuse(error)
        else:
            yield problem, known
    if not rows:
        raise DataError(f"{file.path}: the file holds no rows")


def _nothing_left(config: DatasetConfig, unique: int, bad: list[str]) -> str:
    """The message where no problem is left."""
    files = ", ".join(map(str, config.paths))
    if not unique and bad:
        return f"{files}: no row of {len(bad):,} can be used; the first: {bad[0]}"
    what = "file has" if len(config.paths) == 1 else "files have"
    return f"{files}: no problems are left after start={config.start}; the {what} {unique}"


class _Seen:
    """Which tasks were met, by hashes: of the prompt, of truth and solution, and of what else a function reads.

    ``extra_info["index"]`` is left out: it is the number of the row, which differs between copies too.
    """

    def __init__(self) -> None:
        self._tasks: dict[bytes, dict[tuple[str, bytes, bytes], None]] = {}
        self._ids: dict[object, tuple[bytes, Place]] = {}  # id -> the prompt that it was met with first

    def check_id(self, problem: Problem, place: Place) -> None:
        """Raise DataError if the problem has the id of one with another prompt."""
        index, prompt = problem.extra_info.get("index"), _digest(problem.messages)
        first, where = self._ids.setdefault(index, (prompt, place))
        if first != prompt:
            raise DataError(
                f"{place.path}, row {place.number}: the id {index!r} is that of another problem, in {where.path.name}, "
                f"row {where.number}"
            )

    def before(self, problem: Problem) -> bool:
        """Note a problem, and return whether one that is the same in all respects was seen before."""
        rest = {name: value for name, value in problem.extra_info.items() if name != "index"}
        extra_info = json.dumps(rest, sort_keys=True)
        task = problem.ground_truth, _digest(problem.solution), _digest((problem.data_source, extra_info))
        tasks = self._tasks.setdefault(_digest(problem.messages), {})
        if task in tasks:
            return True
        tasks[task] = None
        return False

    def conflicting(self) -> int:
        """Number of prompts met with different ground truths."""
        return sum(len({truth for truth, _, _ in tasks}) > 1 for tasks in self._tasks.values())

    def variants(self) -> int:
        """Number of tasks, not counting the first of their kind, that differ in data source or extra_info alone."""
        return sum(len(tasks) - len({task[:2] for task in tasks}) for tasks in self._tasks.values())


def _digest(value: object) -> bytes:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).digest()


TRUTH_RULE = "must be text, a number, a list or a mapping; neither empty, nor with NaN or infinities"


def truth_text(value: object) -> str | None:
    """A ground truth as the text that reward functions are given; None if it breaks `TRUTH_RULE`.

    Text stands as it is. Lists and mappings become JSON with sorted keys, so that equal truths are equal texts;
    what JSON does not know in them, such as dates, becomes text.
    """
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float | list | Mapping):
        return None
    if isinstance(value, int | float):
        return str(value) if isinstance(value, int) or math.isfinite(value) else None
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    except (TypeError, ValueError):  # keys of several types; NaN or infinity
        return None
    return text if value else None


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a file; wraps what is wrong with it."""

    path: Path
    label: str
    number: int  # from 1
    dataset: str = ""  # its place in the recipe, such as data.train, where that is known

    @property
    def uid(self) -> str:
        return f"{self.label}/{self.number - 1}"

    def error(self, column: str, value: Any, rule: str) -> DataError:
        shown = repr(value)
        if len(shown) > _LONGEST_VALUE:
            shown = f"{shown[: _LONGEST_VALUE - 3]}..."
        return DataError(f"{self.path}, row {self.number}: {column} {rule}; it is {shown}")

    def column(self, row: Any, name: str, inside: str = "", key: str = "") -> Any:
        """The value of a column that must be there. ``key``: the dataset's key that names it, if one does."""
        if not isinstance(row, dict):
            raise self.error(inside.rstrip(".") or "the row", row, "must be a mapping of columns")
        if name not in row:
            found = ", ".join(map(str, row)) or "none"
            remedy = ""
            if key and self.dataset:
                remedy = f" Say which column it is: {self.dataset}.{key}=NAME"
            elif key:
                remedy = f" The dataset's key {key} says which column it is"
            raise DataError(
                f"{self.path}, row {self.number}: no column {inside + name!r}; found {found}."
                f"{did_you_mean(name, map(str, row))}{remedy}"
            )
        return row[name]

    def text(self, row: Row, name: str, inside: str = "", key: str = "") -> str:
        """The value of a column that must hold some text. ``key``: as in `column`."""
        value = self.column(row, name, inside, key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(inside + name, value, "must be text, and not empty")
        if _LONE_SURROGATE.search(value):
            raise self.error(inside + name, value, _UTF8_RULE)
        return value

    def truth(self, row: Row, name: str, inside: str = "", key: str = "") -> str:
        """The value of a column that must hold a ground truth, as text. ``key``: as in `column`."""
        value = self.column(row, name, inside, key)
        text = truth_text(value)
        if text is None:
            raise self.error(inside + name, value, TRUTH_RULE)
        if _LONE_SURROGATE.search(text):
            raise self.error(inside + name, value, _UTF8_RULE)
        return text


def _format(config: DatasetConfig, first: Row) -> str:
    """The format of a file: that of its first row if the configuration leaves it open."""
    if config.format != "auto":
        return config.format
    messages = isinstance(first.get("prompt"), list) and "prompt" not in config.columns.problem_columns
    return "verl" if "reward_model" in first or messages else "jsonl"


def _without_effect(config: DatasetConfig, file: Place) -> list[str]:
    """Notes on keys that are not at their default and have no effect on verl's rows."""
    changed = [*changed_keys(config, FLAT_KEYS)]
    changed += [f"columns.{key}" for key in changed_keys(config.columns, FLAT_COLUMNS)]
    prefix = f"{file.dataset}." if file.dataset else ""
    return [
        f"{prefix}{key} has no effect on {file.path}, whose rows are in verl's format: they hold the whole prompt"
        for key in changed
    ]


def _read_verl_row(config: DatasetConfig, place: Place, row: Row) -> Problem:
    messages = _messages(place, "prompt", place.column(row, "prompt"))
    extra_info = row.get("extra_info")
    if extra_info is None:
        extra_info = {}
    if not isinstance(extra_info, dict):
        raise place.error("extra_info", extra_info, "must be a mapping")
    solution = config.columns.solution
    measured = {name: row[name] for name in MEASURED_COLUMNS if row.get(name) is not None}
    return Problem(
        uid=place.uid,
        messages=messages,
        ground_truth=place.truth(place.column(row, "reward_model"), "ground_truth", "reward_model."),
        data_source=place.text(row, "data_source"),
        extra_info=_plain(measured | extra_info),
        solution=place.text(row, solution, key="columns.solution") if solution else None,
        row=place.number,
    )


def _messages(place: Place, name: str, value: Any) -> tuple[Message, ...]:
    """The messages of a prompt in the column ``name``."""
    if not isinstance(value, list) or not value:
        raise place.error(name, value, "must be a list of messages with role and content")
    messages = []
    for index, message in enumerate(value):
        inside = f"{name}.{index}."
        role, content = place.text(message, "role", inside), place.text(message, "content", inside)
        messages.append({"role": role, "content": content})
    return tuple(messages)


def _read_flat_row(config: DatasetConfig, place: Place, row: Row) -> Problem:
    columns = config.columns
    messages, text = _flat_messages(config, place, row)
    truth = _flat_truth(config, place, row)
    source = config.data_source or place.path.stem
    if columns.data_source:
        source = place.text(row, columns.data_source, key="columns.data_source")
    index = place.number - 1 if columns.id is None else place.column(row, columns.id, key="columns.id")
    if not isinstance(index, str | int) or not str(index).strip():
        raise place.error(str(columns.id), index, "must be text or a whole number, and not empty")
    used = {*columns.problem_columns, columns.answer, columns.data_source, columns.solution, columns.id}
    names = row if columns.extra is None else columns.extra
    rest = {name: place.column(row, name, key="columns.extra") for name in names if name not in used}
    return Problem(
        uid=place.uid,
        messages=messages,
        ground_truth=truth,
        data_source=source,
        extra_info={"index": index} | _plain(rest),
        solution=place.text(row, columns.solution, key="columns.solution") if columns.solution else None,
        row=place.number,
        text=text,
    )


def _flat_messages(config: DatasetConfig, place: Place, row: Row) -> tuple[tuple[Message, ...], str | None]:
    """The messages of a flat row and its bare problem, or the list of messages that stands there, and None."""
    names = config.columns.problem_columns
    if len(names) == 1 and isinstance(row.get(names[0]), list):
        return _messages(place, names[0], row[names[0]]), None
    problem = " ".join(place.text(row, name, key="columns.problem") for name in names)
    return ({"role": "user", "content": config.template.replace("{problem}", problem)},), problem


def _flat_truth(config: DatasetConfig, place: Place, row: Row) -> str:
    """The ground truth of a flat row, taken out of its column as `answer_form` says."""
    columns = config.columns
    if columns.answer_form == "whole":
        return place.truth(row, columns.answer, key="columns.answer")
    text = place.text(row, columns.answer, key="columns.answer")
    if columns.answer_form == "hash":
        found = text.rpartition("####")[2].strip() if "####" in text else ""
        rule = "must end in #### and the answer (columns.answer_form is hash)"
    else:
        found = (Boxes(text).content() or "").strip()
        rule = "must hold the answer in \\boxed{} (columns.answer_form is boxed)"
    if not found:
        raise place.error(columns.answer, text, rule)
    return found


def _plain(value: Any) -> Any:
    """A value as JSON holds it, for checkpoints: dates, decimals, bytes as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _raise(error: DataError) -> None:
    raise error


def rows_of_file(path: Path, refuse: Callable[[DataError], None] = _raise) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row). In JSONL the number is the line's, and empty lines are passed over.

    refuse: called for a line of JSONL that holds no row, which is passed over if it returns. Raises DataError if the
    file cannot be read; of a damaged parquet file, with the number of the rows in front of the damage.
    """
    if path.is_dir():
        raise DataError(f"dataset {path} is a folder; name a .parquet or .jsonl file")
    if not path.is_file():
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*")])
        raise DataError(f"dataset {path} does not exist.{near}")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".jsonl":
        return _jsonl_rows(path, refuse)
    raise DataError(f"dataset {path}: the name must end in .parquet or .jsonl")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise DataError(f"{path}: not a readable parquet file{after}: {error}") from error


def _jsonl_rows(path: Path, refuse: Callable[[DataError], None]) -> Iterator[tuple[int, Row]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = _json_row(Place(path, path.stem, number), line)
                except DataError as error:
                    refuse(error)
                else:
                    yield number, row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json_row(place: Place, line: bytes) -> Row:
    encoding = "utf-8-sig" if place.number == 1 else "utf-8"
    try:  # without the line's end, so that an error at it has its column
        row = json.loads(line.decode(encoding).rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place.path}, row {place.number}: not valid JSON: {error.msg} at column {error.colno}"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8; a number of thousands of digits; brackets in brackets
        raise DataError(f"{place.path}, row {place.number}: cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise place.error("the row", row, "must be a mapping of columns")
    return row
