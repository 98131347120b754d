"""The responses of one record file as columns: one value per response, and one per token where the file has them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasoner_rl.errors import DataError
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.report.run_files import RecordFiles

# Columns with one value per response that both formats have under the same name.
_SAME = (
    *("response", "score", "accuracy", "components", "status", "extracted", "trained", "tokens"),
    *("finish_reason", "policy_version"),
)
_OF_GROUP = ("uid", "prompt", "ground_truth", "data_source")
Floats = NDArray[numpy.float32]


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """What is known of each response token, all responses laid end to end: N tokens of n responses."""

    offsets: NDArray[numpy.int64]  # [n + 1]
    ids: NDArray[numpy.int32]  # [N]
    logprobs: Floats  # [N]
    trainer_logprobs: Floats  # [N]; NaN: not known
    entropies: Floats  # [N]; NaN: not known
    advantages: Floats  # [N]; NaN: not known
    trained: NDArray[numpy.bool_]  # [N]; False: masked out of the loss


@dataclass(frozen=True, slots=True)
class Responses:
    """The responses of a record in order; those of a group stand side by side."""

    groups: list[dict[str, Any]]  # uid, prompt, ground_truth, data_source, dropped
    rows: dict[str, list[Any]]  # column -> one value per response; `group` is an index into groups
    tokens: TokenColumns | None  # None: read from JSONL, which has means alone
    note: str | None = None  # what is to be said of how it was read

    def __len__(self) -> int:
        return len(self.rows["group"])

    def right(self, row: int) -> bool | None:
        """Whether a response is right: full accuracy. None: not known."""
        accuracy = self.rows["accuracy"][row]
        return None if accuracy is None else bool(accuracy >= 1)


def read_responses(files: RecordFiles) -> Responses:
    """Read a record, from parquet if it can be read, else from JSONL. Raises DataError if neither can."""
    if files.parquet is None:
        assert files.jsonl is not None
        return _from_jsonl(files.jsonl, files.dropped, None)
    try:
        return _from_parquet(files.parquet, files.dropped)
    except DataError as error:
        if files.jsonl is None:
            raise
        return _from_jsonl(files.jsonl, files.dropped, f"{error}; read from {files.jsonl.name} instead")


def _from_parquet(path: Path, dropped: bool) -> Responses:
    table = read_rollouts(path)
    columns = {name: table[name].to_pylist() for name in (*_OF_GROUP, *_SAME, "step", "group", "seconds")}
    columns["components"] = [dict(pairs) for pairs in columns["components"]]
    tokens = _token_columns(path, table)
    keys = list(zip(columns["step"], columns["group"], strict=True))
    groups, numbers = _groups(columns, keys, dropped)
    gaps = numpy.abs(tokens.trainer_logprobs - tokens.logprobs)
    rows = {
        "group": numbers,
        **{name: columns[name] for name in (*_SAME, "seconds")},
        "tokens": numpy.diff(tokens.offsets).tolist(),
        "advantage": _means(tokens.advantages, tokens.offsets),
        "logprob": _means(tokens.logprobs, tokens.offsets),
        "gap": _means(gaps, tokens.offsets),
    }
    return Responses(groups, rows, tokens)


def _token_columns(path: Path, table: pa.Table) -> TokenColumns:
    lengths = pc.list_value_length(table["token_ids"]).to_numpy().astype(numpy.int64)

    def flat(name: str, missing: float) -> NDArray[Any]:
        column = table[name].combine_chunks()
        known = column.is_valid().to_numpy(zero_copy_only=False)
        own = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        if (wrong := numpy.flatnonzero(known & (own != lengths))).size:
            row = int(wrong[0])
            raise DataError(
                f"{path}, row {row + 1}: column {name!r} has {own[row]} values for {lengths[row]} tokens"
            )
        values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        if known.all():
            return values
        filled = numpy.full(int(lengths.sum()), missing, values.dtype)
        filled[numpy.repeat(known, lengths)] = values
        return filled

    return TokenColumns(
        offsets=numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64),
        ids=flat("token_ids", 0),
        logprobs=flat("logprobs", numpy.nan),
        trainer_logprobs=flat("trainer_logprobs", numpy.nan),
        entropies=flat("entropies", numpy.nan),
        advantages=flat("advantages", numpy.nan),
        trained=flat("loss_mask", True).astype(bool),
    )


def _from_jsonl(path: Path, dropped: bool, note: str | None) -> Responses:
    found = read_jsonl(path)
    lines = path.read_bytes().count(b"\n")
    if len(found) < lines:
        raise DataError(f"{path}, line {lines}: is not a JSON object with an integer 'step'")
    needed = (*_OF_GROUP, *_SAME, "advantage", "mean_logprob")
    for number, row in enumerate(found, start=1):
        if missing := [name for name in needed if name not in row]:
            raise DataError(f"{path}, line {number}: no key {missing[0]!r}; is it a record of responses?")
    columns = {name: [row[name] for row in found] for name in needed}
    groups, numbers = _groups(columns, columns["uid"], dropped)
    rows = {
        "group": numbers,
        **{name: columns[name] for name in (*_SAME, "advantage")},
        "seconds": [None] * len(found),
        "logprob": columns["mean_logprob"],
        "gap": [None] * len(found),
    }
    return Responses(groups, rows, None, note)


def _groups(
    columns: Mapping[str, Sequence[Any]], keys: Sequence[Any], dropped: bool
) -> tuple[list[dict[str, Any]], list[int]]:
    """The groups, and the index of each row's: rows in a row with equal keys are of one group."""
    groups: list[dict[str, Any]] = []
    numbers: list[int] = []
    for _, same in itertools.groupby(range(len(keys)), lambda row: keys[row]):
        members = list(same)
        groups.append({**{name: columns[name][members[0]] for name in _OF_GROUP}, "dropped": dropped})
        numbers += [len(groups) - 1] * len(members)
    return groups, numbers


def _means(values: Floats, offsets: NDArray[numpy.int64]) -> list[float | None]:
    """The mean of each response's tokens; None without tokens, and where not all are known."""
    ends = numpy.concatenate([[0.0], numpy.cumsum(values, dtype=numpy.float64)])
    if not numpy.isfinite(ends).all():  # a sum would carry one response's NaN into all later ones
        parts = numpy.split(values.astype(numpy.float64), offsets[1:-1]) if len(offsets) > 1 else []
        means = [part.mean() if part.size else numpy.nan for part in parts]
    else:
        lengths = numpy.diff(offsets)
        with numpy.errstate(invalid="ignore"):
            means = list((ends[offsets[1:]] - ends[offsets[:-1]]) / lengths)
    return [float(mean) if numpy.isfinite(mean) else None for mean in means]


def joined(parts: Sequence[Responses]) -> Responses:
    """The responses of several files as one; without per-token columns if one of them has none."""
    groups: list[dict[str, Any]] = []
    rows: dict[str, list[Any]] = {name: [] for name in parts[0].rows}
    for part in parts:
        for name, column in part.rows.items():
            rows[name] += [number + len(groups) for number in column] if name == "group" else column
        groups += part.groups
    tokens = [part.tokens for part in parts if part.tokens is not None]
    notes = [part.note for part in parts if part.note]
    return Responses(
        groups, rows, _joined_tokens(tokens) if len(tokens) == len(parts) else None, "; ".join(notes) or None
    )


def _joined_tokens(parts: Sequence[TokenColumns]) -> TokenColumns:
    starts = numpy.cumsum([0, *(part.offsets[-1] for part in parts)])
    shifted = [part.offsets[1:] + start for part, start in zip(parts, starts[:-1], strict=True)]
    names = ("ids", "logprobs", "trainer_logprobs", "entropies", "advantages", "trained")
    columns = {name: numpy.concatenate([getattr(part, name) for part in parts]) for name in names}
    return TokenColumns(offsets=numpy.concatenate([[0], *shifted]).astype(numpy.int64), **columns)


def lines_of(responses: Responses) -> list[dict[str, Any]]:
    """One mapping per response, with its group's prompt and the like."""
    return [
        {**responses.groups[group], **{name: column[row] for name, column in responses.rows.items()}}
        for row, group in enumerate(responses.rows["group"])
    ]


def compact_json(data: Any) -> bytes:
    r"""JSON in ASCII, so that a lone surrogate of a text is \udxxx; numbers have 6 digits."""
    return json.dumps(_short(data), separators=(",", ":"), allow_nan=False).encode("ascii")


def _short(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.6g}") if numpy.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _short(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_short(value) for value in data]
    return data
