"""Responses that exist already, of a run or made elsewhere: one typed record for each row of a file.

A row holds a response, or a list of them (several samples of one problem), a ground truth, and if it is given what
names the problem. JSONL, parquet, and the records of a run (docs/reference/records.md) are read; `Columns` names keys
that are called otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow
import pyarrow.parquet

from reasoner_rl.errors import ConfigError, DataError, did_you_mean
from reasoner_rl.observability import rollout_table
from reasoner_rl.observability.rollout_rows import record
from reasoner_rl.prompts.read import Place, rows_of_file
from reasoner_rl.rewards.contract import opened_tag
from reasoner_rl.rewards.queueing import RewardTask

# The first key that a row has counts. A dot leads into a mapping, as in the rows that verl writes.
RESPONSE_KEYS = ("response", "responses", "solution", "completion", "output", "generation")
TRUTH_KEYS = ("ground_truth", "gold", "answer", "target", "reward_model.ground_truth")
PROBLEM_KEYS = ("uid", "id", "question", "problem", "prompt")
COLUMNS = "--columns"  # the flag by which users name other keys
RECORD_FOLDERS = ("rollouts", "evaluations")  # of a run's folder
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Columns:
    """Keys that rows use in place of the common ones; None: the first of the common ones that a row has."""

    response: str | None = None  # text, or a list of texts: `RESPONSE_KEYS`
    ground_truth: str | None = None  # `TRUTH_KEYS`
    problem: str | None = None  # what names the problem: `PROBLEM_KEYS`; need not be there
    data_source: str | None = None  # "data_source"; need not be there
    extra_info: str | None = None  # "extra_info"; need not be there

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read ``response=KEY,ground_truth=KEY``; None names nothing. Raises ConfigError naming the wrong part."""
        if text is None:
            return cls()
        names = [field.name for field in dataclasses.fields(cls)]
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, key = (piece.strip() for piece in part.partition("="))
            if not equals or not key:
                raise ConfigError(f"{COLUMNS} {text!r}: {part!r} must read NAME=KEY")
            if name not in names:
                raise ConfigError(
                    f"{COLUMNS} {text!r}: {name!r} must be one of {', '.join(names)}.{did_you_mean(name, names)}"
                )
            if name in given:
                raise ConfigError(f"{COLUMNS} {text!r}: {name!r} is given twice")
            given[name] = key
        return cls(**given)

    def given(self) -> dict[str, str]:
        """The keys that differ from the common ones, by what they hold."""
        return {name: key for name, key in dataclasses.asdict(self).items() if key is not None}


@dataclass(frozen=True, slots=True)
class Generation:
    """The responses of one row, which answer the same problem, and what they are judged by."""

    path: Path
    row: int  # from 1; of JSONL the line
    problem: str  # what names the problem, as text; "" if the row does not say
    responses: tuple[str, ...]  # at least one
    listed: bool  # whether the row holds them as a list
    ground_truth: str
    data_source: str  # "" if the row does not say
    extra_info: Mapping[str, Any]
    response_tokens: int  # of the record of a run; 0: not known
    opened_tag: str  # with which the prompt ends; "" if there is none, or no prompt as text
    content: Mapping[str, Any]  # the row; of the record of a run what its JSONL says

    def identity(self) -> tuple[str, ...]:
        """Equal for rows of the same problem. A row that does not name its problem is a problem of its own."""
        if not self.problem:
            return str(self.path), str(self.row)
        return self.data_source, self.problem, self.ground_truth

    def tasks(self) -> list[RewardTask]:
        """What verifiers are given, one task for each response."""
        return [
            RewardTask(
                self.data_source,
                response,
                self.ground_truth,
                self.extra_info,
                response_tokens=self.response_tokens,
                opened_tag=self.opened_tag,
            )
            for response in self.responses
        ]


def generation_files(paths: Sequence[Path]) -> list[Path]:
    """The files that paths stand for: themselves, or of a run's folder the records in `RECORD_FOLDERS`.

    Of a step that is recorded in both formats the parquet is taken. A folder with files of neither is an error, and so
    is a file that is named twice. Raises DataError.
    """
    found = [file for path in paths for file in (_records(path) if path.is_dir() else [path])]
    seen = set[Path]()
    for file in found:
        if file.resolve() in seen:
            raise DataError(f"{file} is named twice: its responses would count twice")
        seen.add(file.resolve())
    return found


def _records(folder: Path) -> list[Path]:
    folders = [folder / name for name in RECORD_FOLDERS if (folder / name).is_dir()] or [folder]
    files = [
        file for each in folders for file in sorted(each.glob("*")) if file.suffix in (".parquet", ".jsonl")
    ]
    if folders == [folder]:
        files = [file for file in files if file.name.startswith("step_")]
    if not files:
        raise DataError(
            f"{folder}: no record of responses; a folder must be that of a run, with "
            f"{' or '.join(f'{name}/' for name in RECORD_FOLDERS)}, or one of these, and logging.rollouts not 'none'"
        )
    return [file for file in files if file.suffix == ".parquet" or file.with_suffix(".parquet") not in files]


def read_generations(path: Path, columns: Columns | None = None) -> Iterator[Generation]:
    """Read a .jsonl or .parquet file. Empty lines are passed over.

    Raises DataError naming the file, the row (of JSONL the line), the key, the value and the rule.
    """
    if columns is None:
        columns = Columns()
    for number, content in _rows(path):
        yield _generation(Place(path, path.stem, number), content, columns)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".parquet" and path.is_file() and _is_record(path):
        yield from enumerate(map(record, rollout_table.read_rows(path)), start=1)
    elif path.suffix == ".parquet":
        for number, row in rows_of_file(path):
            yield number, json.loads(json.dumps(row, default=str))  # dates, decimals and bytes become text
    else:
        yield from rows_of_file(path)


def _is_record(path: Path) -> bool:
    """Whether a parquet file is the record of a run, by columns that no other has."""
    try:
        names = pyarrow.parquet.read_schema(path).names
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error
    return {"token_ids", "policy_version"} <= set(names)


def _generation(place: Place, content: Mapping[str, Any], columns: Columns) -> Generation:
    response_key, response = needed(place, content, "response", columns.response, RESPONSE_KEYS)
    responses = response if isinstance(response, list) else [response]
    if not responses or not all(isinstance(each, str) for each in responses):
        raise place.error(response_key, response, "must be text, or a list of texts that is not empty")
    truth_key, truth = needed(place, content, "ground_truth", columns.ground_truth, TRUTH_KEYS)
    _, problem = _optional(place, content, "problem", columns.problem, PROBLEM_KEYS)
    source_key, source = _optional(place, content, "data_source", columns.data_source, ("data_source",))
    if not isinstance(source, str | None):
        raise place.error(source_key, source, "must be text")
    info_key, extra_info = _optional(place, content, "extra_info", columns.extra_info, ("extra_info",))
    if not isinstance(extra_info, dict | None):
        raise place.error(info_key, extra_info, "must be an object")
    tokens, prompt = content.get("tokens"), content.get("prompt")  # of the record of a run
    return Generation(
        path=place.path,
        row=place.number,
        problem=problem if isinstance(problem, str) else "" if problem is None else json.dumps(problem),
        responses=tuple(responses),
        listed=isinstance(response, list),
        ground_truth=place.truth({truth_key: truth}, truth_key),
        data_source=source or "",
        extra_info=extra_info or {},
        response_tokens=tokens if isinstance(tokens, int) and isinstance(response, str) else 0,
        opened_tag=opened_tag(prompt) if isinstance(prompt, str) else "",
        content=content,
    )


def needed(
    place: Place, content: Mapping[str, Any], name: str, chosen: str | None, common: Sequence[str]
) -> tuple[str, Any]:
    """The key of a row that holds what ``Columns`` calls ``name``, and its value. Raises DataError without one."""
    keys = (chosen,) if chosen else common
    for key in keys:
        if (value := _value(content, key)) is not _MISSING:
            return key, value
    # Of a key that the user names the nearest in the row is meant; else a key of the row may be a common one, misspelt.
    near = (
        did_you_mean(chosen, content)
        if chosen
        else next((text for key in content if (text := did_you_mean(key, keys))), "")
    )
    wanted = " or ".join(filter(None, (", ".join(map(repr, keys[:-1])), repr(keys[-1]))))
    said = f"{COLUMNS} {name}={chosen}" if chosen else f"{COLUMNS} {name}=KEY names another"
    found = ", ".join(content) or "none"
    raise DataError(f"{place.path}, row {place.number}: no key {wanted} ({said}); found {found}.{near}")


def _optional(
    place: Place, content: Mapping[str, Any], name: str, chosen: str | None, common: Sequence[str]
) -> tuple[str, Any]:
    """As `needed`; None where a row has none of the common keys."""
    if chosen or any(_value(content, key) is not _MISSING for key in common):
        return needed(place, content, name, chosen, common)
    return common[0], None


def _value(content: Mapping[str, Any], key: str) -> Any:
    """The value of a key; of a.b, unless a key is written so, that of b in the mapping a. `_MISSING` without one."""
    if key in content:
        return content[key]
    first, dot, rest = key.partition(".")
    inner = content.get(first)
    return _value(inner, rest) if dot and isinstance(inner, Mapping) else _MISSING
