"""Responses as a table: one row per response, with every per-token column, in parquet.

`SCHEMA` is the format of ``rollouts/*.parquet``, ``evaluations/*.parquet`` and of the surplus groups in a checkpoint;
docs/reference/records.md says what each column means. Columns that say the same of many responses, such as the prompt
or the policy version, are written once per run of equal values by parquet itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.parquet as pq

from reasoner_rl.errors import DataError, did_you_mean
from reasoner_rl.observability.rollout_rows import Row, groups_of_rows, rows_of_groups
from reasoner_rl.observability.summary import atomic_path, json_ready
from reasoner_rl.types import ScoredGroup, TrainSample

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
_TEXT = pa.string()
_NULLABLE = (
    "trainer_logprobs",
    "policy_switches",
    "entropies",
    "advantages",
    "loss_mask",
    "weight",
    "accuracy",
    "extracted",
    "second_opinion",
)
SCHEMA = pa.schema(
    pa.field(name, kind, nullable=name in _NULLABLE)
    for name, kind in {
        "step": pa.int64(),
        "group": pa.int32(),
        "uid": _TEXT,
        "data_source": _TEXT,
        "prompt": _TEXT,
        "prompt_ids": _INTS,
        "response": _TEXT,
        "token_ids": _INTS,
        "logprobs": _FLOATS,
        "trainer_logprobs": _FLOATS,
        "entropies": _FLOATS,
        "advantages": _FLOATS,
        "loss_mask": pa.list_(pa.bool_()),
        "weight": pa.float64(),
        "ground_truth": _TEXT,
        "extra_info": _TEXT,
        "score": pa.float64(),
        "accuracy": pa.float64(),
        "components": pa.map_(pa.string(), pa.float64()),
        "status": _TEXT,
        "extracted": _TEXT,
        "second_opinion": _TEXT,
        "trained": pa.bool_(),
        "tokens": pa.int32(),
        "finish_reason": _TEXT,
        "policy_version": pa.int64(),
        "policy_switches": pa.list_(pa.int64()),
        "seconds": pa.float64(),
    }.items()
)
_ADDED = (
    "entropies",
    "policy_switches",
    "weight",
    "second_opinion",
)  # columns that files of earlier versions have not
_TOKENS_PER_ROW_GROUP = 1 << 20
# Logprobs hardly ever repeat; their bytes compress better when they are sorted by significance.
_SPLIT = [f"{name}.list.element" for name in ("logprobs", "trainer_logprobs", "entropies")]
_LISTS = [f"{field.name}.list.element" for field in SCHEMA if pa.types.is_list(field.type)]
_ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [
        *(field.name for field in SCHEMA if not pa.types.is_nested(field.type)),
        *(name for name in _LISTS if name not in _SPLIT and name != "loss_mask.list.element"),
        "components.key_value.key",
    ],
    "use_byte_stream_split": _SPLIT,
    "write_page_checksum": True,
}


def write_rollouts(
    path: Path, step: int, groups: Sequence[ScoredGroup], samples: Sequence[TrainSample] = ()
) -> None:
    """Write the rows of `rows_of_groups` as parquet; ``path`` is either replaced as a whole or left as it was."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        with pq.ParquetWriter(file, SCHEMA, **_ENCODING) as writer:
            for rows in _row_groups(rows_of_groups(step, groups, samples)):
                columns = [_column(field, [row[field.name] for row in rows]) for field in SCHEMA]
                writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        file.flush()
        os.fsync(file.fileno())


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut the rows so that only so many tokens are ever copied into Arrow's memory at once."""
    chunk, tokens = list[Row](), 0
    for row in rows:
        chunk.append(row)
        tokens += len(row["prompt_ids"]) + row["tokens"]
        if tokens >= _TOKENS_PER_ROW_GROUP:
            yield chunk
            chunk, tokens = [], 0
    if chunk:
        yield chunk


def _column(field: pa.Field, values: list[Any]) -> pa.Array:
    if pa.types.is_list(field.type):
        return _lists(values, field.type.value_type)
    if pa.types.is_map(field.type):
        values = [[(_utf8(key), number) for key, number in mapping.items()] for mapping in values]
    elif field.name == "extra_info":
        values = [_utf8(json.dumps(json_ready(info), ensure_ascii=False)) for info in values]
    elif field.type == _TEXT:
        values = [None if text is None else _utf8(text) for text in values]
    return pa.array(values, field.type)


def _lists(values: list[Any], kind: pa.DataType) -> pa.ListArray:
    """Arrays, tensors or tuples of numbers, or None, without a Python object per number."""
    arrays = [numpy.asarray(() if each is None else each, dtype=kind.to_pandas_dtype()) for each in values]
    offsets = numpy.cumsum([0, *map(len, arrays)], dtype=numpy.int32)
    numbers = pa.array(numpy.concatenate(arrays), kind)
    return pa.ListArray.from_arrays(offsets, numbers, mask=pa.array([each is None for each in values]))


def _utf8(text: str) -> str:
    r"""Write a lone surrogate, which UTF-8 cannot hold, as \udxxx: within JSON that is the same character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_rollouts(path: Path) -> pa.Table:
    """Read a file whole, with the columns of `SCHEMA`. Raises DataError naming the file and the column."""
    return pa.concat_tables([SCHEMA.empty_table(), *_checked(path)])


def read_rows(path: Path) -> Iterator[Row]:
    """Read a file row by row, one row group in memory at a time. Raises as `read_rollouts`."""
    for table in _checked(path):
        yield from _rows(table)


def _checked(path: Path) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check(path, file.schema_arrow.empty_table())
            for number in range(file.num_row_groups):
                yield _check(path, file.read_row_group(number))
    except (pa.ArrowException, OSError) as error:
        others = [] if path.exists() else [other.name for other in path.parent.glob("*.parquet")]
        near = did_you_mean(path.name, others)
        raise DataError(f"{path}: cannot be read as parquet: {error}.{near}") from error


def _check(path: Path, table: pa.Table) -> pa.Table:
    """The columns of SCHEMA in its types, which another writer may have widened."""
    columns = []
    for field in SCHEMA:
        if field.name in _ADDED and field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        if field.name not in table.column_names:
            near = did_you_mean(field.name, table.column_names)
            raise DataError(
                f"{path}: no column {field.name!r}; found {', '.join(table.column_names) or 'none'}.{near}"
            )
        column = table[field.name]
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {field.name!r} must be {field.type}; it is {column.type} ({error})"
            ) from error
        if column.null_count and not field.nullable:
            raise DataError(f"{path}: column {field.name!r} must not be null; {column.null_count} values are")
    for text in table["extra_info"].unique().to_pylist():
        _object(path, text)
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _object(path: Path, text: str) -> None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: column 'extra_info' is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: column 'extra_info' must hold JSON objects; one is {text[:80]}")


def _rows(table: pa.Table) -> Iterator[Row]:
    lists = [field.name for field in SCHEMA if pa.types.is_list(field.type)]
    others = [name for name in SCHEMA.names if name not in lists]
    for batch in table.to_batches():
        columns = {name: _arrays(batch[name]) for name in lists}
        for place, row in enumerate(batch.select(others).to_pylist()):
            info, components = json.loads(row["extra_info"]), dict(row["components"])
            own = {name: column[place] for name, column in columns.items()}
            yield {**row, **own, "extra_info": info, "components": components}


def _arrays(column: pa.ListArray) -> list[numpy.ndarray[Any, Any] | None]:
    """Each list as an array, or None, without a Python object per number."""
    numbers, bounds = column.values.to_numpy(zero_copy_only=False), column.offsets.to_pylist()
    return [
        numbers[start:end] if known else None
        for (start, end), known in zip(pairwise(bounds), column.is_valid().to_pylist(), strict=True)
    ]


def groups_of(table: pa.Table) -> list[ScoredGroup]:
    """The groups that a table was written from; docs/reference/records.md says what is not kept to the last bit."""
    return groups_of_rows(_rows(table))
