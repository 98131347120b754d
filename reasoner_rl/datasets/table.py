"""Problems as a table in verl's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow

from reasoner_rl.prompts.read import Problem

ABILITY, STYLE = "math", "rule"


@dataclass(frozen=True, slots=True)
class ProblemTable:
    """The table, and what could not be written as it was."""

    table: pyarrow.Table
    as_text: tuple[str, ...]  # keys of extra_info whose values one column cannot hold: they are JSON there


def problem_table(problems: Sequence[Problem]) -> ProblemTable:
    """Columns data_source, prompt, ability, reward_model, extra_info, and solution where problems have one."""
    keys = list(dict.fromkeys(key for problem in problems for key in problem.extra_info))
    extra, as_text = [], []
    for key in keys:
        values = [problem.extra_info.get(key) for problem in problems]
        array = _array(values)
        if array is None:
            as_text.append(key)
            array = pyarrow.array(
                [None if value is None else _json(value) for value in values], pyarrow.string()
            )
        extra.append(array)
    columns: dict[str, Any] = {
        "data_source": pyarrow.array([problem.data_source for problem in problems]),
        "prompt": pyarrow.array([list(map(dict, problem.messages)) for problem in problems]),
        "ability": pyarrow.array([ABILITY] * len(problems)),
        "reward_model": pyarrow.array(
            [{"ground_truth": problem.ground_truth, "style": STYLE} for problem in problems]
        ),
    }
    if extra:
        columns["extra_info"] = pyarrow.StructArray.from_arrays(extra, names=keys)
    if any(problem.solution is not None for problem in problems):
        columns["solution"] = pyarrow.array([problem.solution for problem in problems])
    return ProblemTable(pyarrow.table(columns), tuple(as_text))


def _array(values: Sequence[Any]) -> pyarrow.Array | None:
    """The values as parquet holds them; None if it would not give them back, as with several types in one column."""
    try:
        array = pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return None
    return array if not _holds_empty(array.type) and array.to_pylist() == list(values) else None


def _holds_empty(type_: pyarrow.DataType) -> bool:
    """Whether a type has a mapping without keys in it, which parquet cannot hold."""
    if pyarrow.types.is_list(type_):
        return _holds_empty(type_.value_type)
    if not pyarrow.types.is_struct(type_):
        return False
    return type_.num_fields == 0 or any(_holds_empty(type_[n].type) for n in range(type_.num_fields))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
