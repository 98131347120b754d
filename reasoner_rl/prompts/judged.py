"""Reading answers that were judged before: pairs, labelled answers and scored answers, in TRL's formats.

    {"prompt": ..., "chosen": ..., "rejected": ...}      pairs; with columns.prompt null, answers begin with the prompt
    {"prompt": ..., "completion": ..., "label": true}    labelled answers; a pair is read as a good and a bad one
    {"prompt": ..., "completion": ..., "reward": 0.7}    scored answers

Prompts and answers are text, or lists of messages with role and content.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.preference import JudgedData
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.read import Message, Place, Row, rows_of_file

_LISTED_ROWS = 5
GOOD, BAD = 1.0, 0.0  # scores of a pair's answers, unless there is a column of margins, and of labelled ones


@dataclass(frozen=True, slots=True)
class JudgedExample:
    """A prompt with an answer, or with the two of a pair, the better one first."""

    row: int  # from 1
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class JudgedReport:
    """What became of the rows of a file."""

    rows: int
    duplicates: list[int]  # rows of examples dropped that were seen before
    contradictions: list[int]  # rows of pairs, or answers, that another row judges otherwise; all are kept
    kept: int

    def __str__(self) -> str:
        parts = [f"{self.rows:,} rows read", f"{self.kept:,} examples kept"]
        unusual = {
            "dropped because it was seen before": self.duplicates,
            "that another row judges otherwise (kept)": self.contradictions,
        }
        return "; ".join(parts + listed(unusual))


def listed(unusual: Mapping[str, Sequence[int]]) -> list[str]:
    """What is unusual in data, with how many rows and the first of them; what no row is, is left out."""
    return [
        f"{len(rows):,} {what} (row{'s' if len(rows) > 1 else ''} "
        f"{', '.join(map(str, rows[:_LISTED_ROWS]))}{', ...' if len(rows) > _LISTED_ROWS else ''})"
        for what, rows in unusual.items()
        if rows
    ]


def read_judged(config: JudgedDatasetConfig, kind: JudgedData) -> tuple[list[JudgedExample], JudgedReport]:
    """Read one file. Raises DataError naming the file and, for a malformed row, its number and column."""
    seen: dict[Any, dict[Any, int]] = {}  # what was judged -> how, and in which row first
    examples: list[JudgedExample] = []
    duplicates: list[int] = []
    rows = 0
    for number, row in rows_of_file(config.path):
        if config.limit is not None and len(examples) >= config.limit:
            break
        rows += 1
        for example in _read_row(config, kind, Place(config.path, config.label, number), row):
            judged, verdict = _judged(example)
            if config.deduplicate and verdict in seen.get(judged, ()):
                duplicates.append(number)
                continue
            seen.setdefault(judged, {}).setdefault(verdict, number)
            examples.append(example)
    if not examples:
        raise DataError(f"{config.path}: the file holds no rows")
    examples = examples[: config.limit]  # of a pair that is read as two answers, one may be beyond it
    contradictions = sorted({row for rows in seen.values() if len(rows) > 1 for row in rows.values()})
    return examples, JudgedReport(rows, duplicates, contradictions, len(examples))


def _judged(example: JudgedExample) -> tuple[Any, Any]:
    """What an example is about, and what it says of it."""
    prompt = tuple((message["role"], message["content"]) for message in example.messages)
    if len(example.answers) == 2:
        return (prompt, frozenset(example.answers)), example.answers
    return (prompt, example.answers), example.scores


def _read_row(
    config: JudgedDatasetConfig, kind: JudgedData, place: Place, row: Row
) -> Iterator[JudgedExample]:
    columns = config.columns
    if not isinstance(row, Mapping):
        raise place.error("the row", row, "must be a mapping of columns")
    if kind == "pairs" or (kind == "labels" and columns.completion not in row and columns.chosen in row):
        messages, answers = read_pair(config, place, row)
        if kind == "pairs":
            lead = GOOD if columns.margin is None else _margin(place, row, columns.margin)
            yield JudgedExample(place.number, messages, answers, (lead, BAD))
            return
        for answer, score in zip(answers, (GOOD, BAD), strict=True):
            yield JudgedExample(place.number, messages, (answer,), (score,))
        return
    if columns.prompt is None:
        raise DataError(
            f"{place.path}: columns.prompt is null, which is for pairs; name the column of prompts"
        )
    messages = read_prompt(config, place, row)
    answer = read_answer(place, row, columns.completion)
    score = _label(place, row, columns.label) if kind == "labels" else _score(place, row, columns.score)
    yield JudgedExample(place.number, messages, (answer,), (score,))


def _label(place: Place, row: Row, column: str) -> float:
    value = place.column(row, column)
    if value not in (True, False):  # 1 and 0 are equal to them
        raise place.error(column, value, "must be true or false")
    return GOOD if value else BAD


def _score(place: Place, row: Row, column: str) -> float:
    value = place.column(row, column)
    # Not finite: NaN, infinities, and integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise place.error(column, value, "must be a finite number")
    return float(value)


def _margin(place: Place, row: Row, column: str) -> float:
    value = _score(place, row, column)
    if value < 0:
        raise place.error(column, value, "must be at least 0")
    return value


def read_prompt(config: JudgedDatasetConfig, place: Place, row: Row) -> tuple[Message, ...]:
    """The messages of a prompt; text is one message of the user."""
    column = config.columns.prompt
    assert column is not None
    if column not in row and config.columns.chosen in row:
        raise DataError(
            f"{place.path}, row {place.number}: no column {column!r}: set columns.prompt to its name, or to null where "
            "the answers of a pair begin with the prompt"
        )
    if isinstance(row.get(column), list):
        return _messages(place, row[column], column)
    return _as_user(config, place.text(row, column))


def _as_user(config: JudgedDatasetConfig, text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": config.prompt_template.replace("{prompt}", text)},)


def _messages(place: Place, value: Sequence[Any], column: str) -> tuple[Message, ...]:
    if not value:
        raise place.error(column, value, "must hold at least one message")
    return tuple(
        {key: place.text(message, key, f"{column}.{index}.") for key in ("role", "content")}
        if isinstance(message, Mapping)
        else _no_message(place, column, message)
        for index, message in enumerate(value)
    )


def _no_message(place: Place, column: str, message: Any) -> Message:
    raise place.error(column, message, "must be text, or a list of messages with role and content")


def read_answer(place: Place, row: Row, column: str) -> str:
    """An answer's text; as messages, it is one of the assistant."""
    value = place.column(row, column)
    if not isinstance(value, list):
        return place.text(row, column)
    return _only_answer(place, column, _messages(place, value, column))


def _only_answer(place: Place, column: str, messages: Sequence[Message]) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise place.error(column, roles, "must hold one message, of the assistant, after the prompt")
    return messages[0]["content"]


def read_pair(
    config: JudgedDatasetConfig, place: Place, row: Row
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    names = config.columns.chosen, config.columns.rejected
    if config.columns.prompt is not None:
        messages = read_prompt(config, place, row)
        return messages, (read_answer(place, row, names[0]), read_answer(place, row, names[1]))
    values = [place.column(row, name) for name in names]
    if all(isinstance(value, list) for value in values):
        chosen, rejected = (_messages(place, value, name) for value, name in zip(values, names, strict=True))
        length = len(_common(chosen[:-1], rejected[:-1]))
        if not length:
            raise DataError(
                f"{place.path}, row {place.number}: {names[0]} and {names[1]} must begin with the same messages, as "
                "columns.prompt is null"
            )
        answers = [_only_answer(place, n, m[length:]) for n, m in zip(names, (chosen, rejected), strict=True)]
        return chosen[:length], (answers[0], answers[1])
    first, second = place.text(row, names[0]), place.text(row, names[1])
    prompt = "".join(_common(first, second))
    # The prompt ends before the space that the first differing words have in common.
    prompt = prompt.removesuffix(" ")
    rests = first[len(prompt) :], second[len(prompt) :]
    if not prompt.strip() or not all(rest.strip() for rest in rests):
        raise DataError(
            f"{place.path}, row {place.number}: {names[0]} and {names[1]} must begin with the same prompt, and each go "
            "beyond it, as columns.prompt is null"
        )
    return _as_user(config, prompt), rests


def _common(first: Sequence[Any], second: Sequence[Any]) -> Sequence[Any]:
    """The longest beginning of both."""
    pairs = zip(first, second, strict=False)
    return [one for one, _ in itertools.takewhile(lambda both: both[0] == both[1], pairs)]
