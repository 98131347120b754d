"""Which columns of a file hold problem, answer, worked solution and id, by the names that are common in this field."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner_rl.config.data import ColumnMap
from reasoner_rl.errors import DataError, did_you_mean
from reasoner_rl.prompts.read import Row, rows_of_file

# In the order in which they are looked for; compared without regard to case.
PROBLEM = ("problem", "question_concat", "question", "prompt", "query", "instruction", "input", "text")
ANSWER = (
    *("answer", "ground_truth", "final_answer", "expected_answer", "gold", "gold_answer"),
    *("target", "result", "label", "output"),
)
SOLUTION = ("solution", "worked_solution", "rationale", "reasoning", "response", "generation")
ID = ("unique_id", "problem_id", "question_id", "id", "uid")
# A text and the question about it, which are one problem.
PARTS = (("body", "question"), ("context", "question"))
SAMPLE = 100  # rows that are looked at
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


@dataclass(frozen=True, slots=True)
class Recognised:
    """How a file is to be read."""

    verl: bool  # the rows are in verl's format and need no map
    columns: ColumnMap
    said: str  # for people


def recognise(path: Path, given: Mapping[str, Any], preferred: ColumnMap | None = None) -> Recognised:
    """Look at a file's first rows and say which columns hold what.

    given: keys of `ColumnMap` that the user has set. preferred: the columns of the published file, taken where the file
    has them. Raises DataError that lists the columns if none of a known name holds the problem or the answer, if one
    that is given is not there, or the file has no rows.
    """
    rows = _sample(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "reward_model" in names and not {"problem", "answer"} & given.keys():
        return Recognised(True, ColumnMap(solution=given.get("solution")), "rows in verl's format")
    _refuse_unknown(path, given, names)
    if preferred is not None and not given and _has(names, preferred):
        return Recognised(False, preferred, describe(preferred))
    chosen: dict[str, Any] = dict(given)
    if "problem" not in chosen:
        chosen["problem"] = _problem(path, names)
    if "answer" not in chosen:
        chosen["answer"] = _answer(path, names)
    answers = [row.get(chosen["answer"]) for row in rows]
    if "answer_form" not in chosen:
        chosen["answer_form"] = answer_form(answers)
    if "id" not in chosen:
        chosen["id"] = _first(names, ID)
    columns = ColumnMap.model_validate(chosen)
    return Recognised(False, columns, describe(columns) + _partly_hash(given, answers))


def describe(columns: ColumnMap) -> str:
    """The map in words."""
    forms = {"whole": "", "hash": " (behind ####)", "boxed": r" (in \boxed{})"}
    parts = [
        f"problem: {' + '.join(columns.problem_columns)}",
        f"answer: {columns.answer}{forms[columns.answer_form]}",
    ]
    others = {"solution": columns.solution, "id": columns.id, "data source": columns.data_source}
    parts += [f"{what}: {name}" for what, name in others.items() if name]
    return f"columns {', '.join(parts)}"


def answer_form(answers: Sequence[object]) -> str:
    """Where in its column the answer stands: one of `ColumnMap.answer_form`.

    Worked solutions are recognised by what all of the answers have: #### as in GSM8K, or a box.
    """
    texts = [answer for answer in answers if isinstance(answer, str)]
    if not texts:
        return "whole"
    if all("####" in text for text in texts):
        return "hash"
    return "boxed" if all(_BOXED.search(text) for text in texts) else "whole"


def _refuse_unknown(path: Path, given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise DataError, naming the flag, if a column that every row must have is given and is not there."""
    for key in ("problem", "answer", "solution", "id"):
        columns = given.get(key, ())
        for column in [columns] if isinstance(columns, str) else columns:
            if column not in names:
                raise DataError(
                    f"{path}: --{key}-column {column}: there is no such column; found {', '.join(names) or 'none'}."
                    f"{did_you_mean(column, names)}"
                )


def _partly_hash(given: Mapping[str, Any], answers: Sequence[object]) -> str:
    """What is said where some answers have #### and others do not, so that all are taken whole."""
    count = sum(isinstance(answer, str) and "####" in answer for answer in answers)
    if "answer_form" in given or count in (0, len(answers)):
        return ""
    return (
        f" (whole: {count} of the first {len(answers)} have ####, the others do not; --answer-form hash takes what is "
        "behind it, and refuses the others)"
    )


def _sample(path: Path) -> list[Row]:
    rows = [row for _, row in itertools.islice(rows_of_file(path, lambda error: None), SAMPLE)]
    if not rows:  # say why, where the rows are bad
        next(iter(rows_of_file(path)), None)
        raise DataError(f"{path}: the file holds no rows")
    return rows


def _has(names: Iterable[str], columns: ColumnMap) -> bool:
    wanted = {*columns.problem_columns, columns.answer, *(columns.extra or ())}
    wanted |= {name for name in (columns.id, columns.solution, columns.data_source) if name}
    return wanted <= set(names)


def _first(names: Iterable[str], known: Iterable[str]) -> str | None:
    """The name among ``names`` that is the first of the known ones, in whatever case it is written."""
    by_case = {name.lower(): name for name in reversed(list(names))}
    return next((by_case[name] for name in known if name in by_case), None)


def _problem(path: Path, names: list[str]) -> str | list[str]:
    for parts in PARTS:
        found = [_first(names, [part]) for part in parts]
        if all(found) and not _first(names, PROBLEM[:2]):
            return [name for name in found if name]
    name = _first(names, PROBLEM)
    if name is None:
        raise DataError(_unknown(path, "the problem", "--problem-column", PROBLEM, names))
    return name


def _answer(path: Path, names: list[str]) -> str:
    name = _first(names, ANSWER) or _first(names, SOLUTION)
    if name is None:
        raise DataError(_unknown(path, "the answer", "--answer-column", ANSWER, names))
    return name


def _unknown(path: Path, what: str, flag: str, known: Sequence[str], names: Sequence[str]) -> str:
    return (
        f"{path}: no column has one of the names that are known for {what} ({', '.join(known)}); found "
        f"{', '.join(names) or 'none'}. Say which it is: {flag} NAME"
    )
