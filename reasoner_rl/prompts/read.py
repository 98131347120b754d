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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.errors import DataError, did_you_mean

Message = Mapping[str, str]  # {"role": ..., "content": ...}
Row = Mapping[str, Any]

_PARQUET_BATCH_ROWS = 4096
_LONGEST_VALUE = 80
_UTF8_RULE = "must be text that UTF-8 can hold, without lone surrogates"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """What became of the rows of one file."""

    rows: int  # read
    duplicates: int  # rows dropped: all that a reward function or a lesson reads was seen before
    conflicting: int  # problems that appear with different ground truths; all of them are kept
    variants: int  # tasks that differ from another in data_source or extra_info alone; all of them are kept
    kept: int  # problems, after `start` and `limit`
    whole_file: bool  # False: reading ended at `limit`

    def __str__(self) -> str:
        rows = f"{self.rows:,} rows read" + ("" if self.whole_file else " (up to the limit)")
        parts = [rows, f"{self.duplicates:,} duplicates dropped", f"{self.kept:,} problems kept"]
        if self.conflicting:
            parts.append(f"{self.conflicting:,} problems with different ground truths (kept)")
        if self.variants:
            parts.append(
                f"{self.variants:,} differing from another in data_source or extra_info alone (kept)"
            )
        return ", ".join(parts)


def read_problems(config: DatasetConfig) -> tuple[list[Problem], ReadReport]:
    """Read one dataset. Raises DataError naming the file and, for a malformed row, its number and column."""
    rows = rows_of_file(config.path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{config.path}: the file holds no rows")
    read_row = _reader(config, first[1])
    label = config.label
    seen = _Seen()
    problems: list[Problem] = []
    count = unique = 0
    whole_file = True
    for number, row in itertools.chain([first], rows):
        if config.limit is not None and len(problems) == config.limit:
            whole_file = False
            break
        count += 1
        try:
            problem = read_row(Place(config.path, label, number), row)
            known = seen.before(problem)
        except RecursionError:
            raise DataError(f"{config.path}, row {number}: brackets are nested too deeply") from None
        if known and config.deduplicate:
            continue
        unique += 1
        if unique > config.start:
            problems.append(problem)
    if not problems:
        raise DataError(
            f"{config.path}: no problems are left after start={config.start}; the file has {unique}"
        )
    return problems, ReadReport(
        count, count - unique, seen.conflicting(), seen.variants(), len(problems), whole_file
    )


class _Seen:
    """Which tasks were met, by hashes: of the prompt, of truth and solution, and of what else a function reads.

    ``extra_info["index"]`` is left out: it is the number of the row, which differs between copies too.
    """

    def __init__(self) -> None:
        self._tasks: dict[bytes, dict[tuple[str, bytes, bytes], None]] = {}

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
            remedy = f" The dataset's key {key} says which column it is" if key else ""
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


def _reader(config: DatasetConfig, first: Row) -> Callable[[Place, Row], Problem]:
    """The function that reads one row, in the format of the first one if the configuration leaves it open."""
    chosen = config.format
    if chosen == "auto":
        nested = "reward_model" in first or isinstance(first.get("prompt"), list)
        chosen = "verl" if nested else "jsonl"
    if chosen == "verl" and config.prompt_template not in (None, "{problem}"):
        raise DataError(
            f"{config.path}: prompt_template={config.prompt_template!r} has no effect on rows of the verl schema, "
            "whose prompts are whole: leave it out, or choose another prompt with data.prompts.template"
        )
    read_row = _read_verl_row if chosen == "verl" else _read_flat_row
    return lambda place, row: read_row(config, place, row)


def _read_verl_row(config: DatasetConfig, place: Place, row: Row) -> Problem:
    prompt = place.column(row, "prompt")
    if not isinstance(prompt, list) or not prompt:
        raise place.error("prompt", prompt, "must be a list of messages with role and content")
    messages = []
    for index, message in enumerate(prompt):
        inside = f"prompt.{index}."
        role, content = place.text(message, "role", inside), place.text(message, "content", inside)
        messages.append({"role": role, "content": content})
    extra_info = row.get("extra_info")
    if extra_info is None:
        extra_info = {}
    if not isinstance(extra_info, dict):
        raise place.error("extra_info", extra_info, "must be a mapping")
    solution = config.columns.solution
    return Problem(
        uid=place.uid,
        messages=tuple(messages),
        ground_truth=place.truth(place.column(row, "reward_model"), "ground_truth", "reward_model."),
        data_source=place.text(row, "data_source"),
        extra_info=_plain(extra_info),
        solution=place.text(row, solution, key="columns.solution") if solution else None,
        row=place.number,
    )


def _read_flat_row(config: DatasetConfig, place: Place, row: Row) -> Problem:
    columns = config.columns
    text = place.text(row, columns.problem, key="columns.problem")
    content = config.template.replace("{problem}", text)
    used = (columns.problem, columns.answer, columns.data_source, columns.solution)
    rest = {name: value for name, value in row.items() if name not in used}
    return Problem(
        uid=place.uid,
        messages=({"role": "user", "content": content},),
        ground_truth=place.truth(row, columns.answer, key="columns.answer"),
        data_source=place.text(row, columns.data_source, key="columns.data_source")
        if columns.data_source
        else config.path.stem,
        extra_info={"index": place.number - 1} | _plain(rest),
        solution=place.text(row, columns.solution, key="columns.solution") if columns.solution else None,
        row=place.number,
        text=text,
    )


def _plain(value: Any) -> Any:
    """A value as JSON holds it, for checkpoints: dates, decimals, bytes as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def rows_of_file(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row). In JSONL the number is the line's, and empty lines are passed over."""
    if path.is_dir():
        raise DataError(f"dataset {path} is a folder; name a .parquet or .jsonl file")
    if not path.is_file():
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*")])
        raise DataError(f"dataset {path} does not exist.{near}")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".jsonl":
        return _jsonl_rows(path)
    raise DataError(f"dataset {path}: the name must end in .parquet or .jsonl")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = itertools.count(1)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield next(number), row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_row(Place(path, path.stem, number), line)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json_row(place: Place, line: str) -> Row:
    try:
        row = json.loads(line.rstrip("\r\n"))  # without the line's end, so that an error at it has its column
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place.path}, row {place.number}: not valid JSON: {error.msg} at column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets
        raise DataError(f"{place.path}, row {place.number}: cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise place.error("the row", row, "must be a mapping of columns")
    return row
