"""The responses of a run cut into pages of one step, and each page into chunks that the browser loads when needed.

KEY.rows        gzip of JSON: groups, columns with one value per response, and what parts of tokens there are
KEY.tokens.PART gzip of `token_part`: what is known of each token, of so many responses
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy
from numpy.typing import NDArray

from reasoner_rl.errors import DataError
from reasoner_rl.report.responses import Responses, TokenColumns, compact_json, joined, read_responses
from reasoner_rl.report.run_files import RecordFiles

TOKENS_PER_PART = 1 << 20
_LOGPROB_UNIT, _GAP_UNIT, _ENTROPY_UNIT = 1e-3, 1e-4, 1e-3  # nats; what the stored whole numbers count
_LEVEL = 6  # of gzip
Put = Callable[[str, bytes], None]  # takes a chunk by its key


@dataclass(frozen=True, slots=True)
class PageSummary:
    """What the overview says of a page: counts of its responses, and which problems it has."""

    key: str
    set: str
    step: int
    responses: int
    right: int
    wrong: int
    truncated: int
    dropped: int
    problems: dict[str, tuple[int, int]]  # uid -> responses, right ones

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def pages_of(records: Sequence[RecordFiles]) -> Iterator[list[RecordFiles]]:
    """The records that a page shows together: of one set and step, kept and dropped."""
    for _, same in groupby(records, lambda record: (record.set, record.step)):
        yield list(same)


def write_page(key: str, records: Sequence[RecordFiles], put: Put, notes: list[str]) -> PageSummary | None:
    """Read a page's files and hand its chunks to ``put``. Files that cannot be read are noted; None if none can."""
    read = []
    for files in records:
        try:
            read.append(read_responses(files))
        except (DataError, OSError) as error:
            notes.append(f"responses of step {files.step} left out: {error}")
    if not read:
        return None
    responses = joined(read)
    if responses.note:
        notes.append(responses.note)
    parts = list(_parts(responses.tokens)) if responses.tokens else []
    for number, (first, last) in enumerate(parts):
        assert responses.tokens is not None
        put(f"{key}.tokens.{number}", _packed(token_part(responses.tokens, first, last)))
    put(
        f"{key}.rows",
        _packed(compact_json({"groups": responses.groups, "rows": responses.rows, "parts": parts})),
    )
    return _summary(key, records[0], responses)


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, _LEVEL, mtime=0)


def _parts(tokens: TokenColumns) -> Iterator[tuple[int, int]]:
    """Ranges of responses with at most so many tokens each, unless one response alone has more."""
    first, offsets = 0, tokens.offsets
    for row in range(1, len(offsets)):
        if row == len(offsets) - 1 or offsets[row + 1] - offsets[first] > TOKENS_PER_PART:
            yield first, row
            first = row


def token_part(tokens: TokenColumns, first: int, last: int) -> bytes:
    """The tokens of the responses first..last-1 as bytes.

    uint32 length of a JSON header; the header, with the offsets of responses and the columns' names and types in
    order; the columns. Numbers of two bytes are split into all low bytes and all high bytes, which compresses better.
    A column that says nothing, such as a mask that is true everywhere, is left out; advantages that are the same for
    all tokens of each response are written once per response.
    """
    start, end = tokens.offsets[first], tokens.offsets[last]
    cut = slice(start, end)
    offsets = (tokens.offsets[first : last + 1] - start).tolist()
    wide = tokens.ids[cut].max(initial=0) >= 1 << 16
    columns: list[tuple[str, str, bytes]] = [
        ("ids", "u32" if wide else "u16", _whole(tokens.ids[cut], "<u4" if wide else "<u2")),
        ("logprobs", "u16", _whole(_scaled(-tokens.logprobs[cut], _LOGPROB_UNIT, 0, 65535), "<u2")),
    ]
    gap = tokens.trainer_logprobs[cut] - tokens.logprobs[cut]
    if not numpy.isnan(gap).all():
        columns.append(("gap", "i16", _whole(_scaled(gap, _GAP_UNIT, -32767, 32767, -32768), "<i2")))
    entropies = tokens.entropies[cut]
    if not numpy.isnan(entropies).all():
        columns.append(("entropy", "u16", _whole(_scaled(entropies, _ENTROPY_UNIT, 0, 65534, 65535), "<u2")))
    advantages, flat = tokens.advantages[cut], _flat(tokens.advantages[cut], offsets)
    if flat is not None:
        columns.append(("advantage", "f32", flat.astype("<f4").tobytes()))
    elif not numpy.isnan(advantages).all():
        columns.append(("advantages", "f32", advantages.astype("<f4").tobytes()))
    if not tokens.trained[cut].all():
        columns.append(("trained", "u8", tokens.trained[cut].astype("u1").tobytes()))
    header = compact_json(
        {
            "first": first,
            "offsets": offsets,
            "columns": [(name, kind, len(data)) for name, kind, data in columns],
        }
    )
    return b"".join([struct.pack("<I", len(header)), header, *(data for _, _, data in columns)])


def _scaled(
    values: NDArray[Any], unit: float, low: int, high: int, missing: int | None = None
) -> NDArray[Any]:
    whole = numpy.nan_to_num(numpy.rint(values.astype(numpy.float64) / unit), nan=0, posinf=high, neginf=low)
    whole = numpy.clip(whole, low, high)
    return whole if missing is None else numpy.where(numpy.isnan(values), missing, whole)


def _whole(values: NDArray[Any], kind: str) -> bytes:
    data = numpy.ascontiguousarray(values.astype(kind)).view("u1").reshape(len(values), -1)
    return data.T.tobytes()


def _flat(advantages: NDArray[numpy.float32], offsets: list[int]) -> NDArray[numpy.float32] | None:
    """The advantage of each response, if it is known and the same for all its tokens in every response."""
    if numpy.isnan(advantages).all():
        return None
    starts = numpy.array(offsets[:-1])
    lengths = numpy.diff(offsets)
    firsts = numpy.append(advantages, numpy.nan).astype(numpy.float32)[starts]
    firsts[lengths == 0] = numpy.nan
    same = numpy.repeat(firsts, lengths)
    return firsts if numpy.array_equal(same, advantages, equal_nan=True) else None


def _summary(key: str, files: RecordFiles, responses: Responses) -> PageSummary:
    rows, problems = responses.rows, dict[str, tuple[int, int]]()
    right = [responses.right(row) for row in range(len(responses))]
    for number, is_right in zip(rows["group"], right, strict=True):
        uid = responses.groups[number]["uid"]
        count, good = problems.get(uid, (0, 0))
        problems[uid] = (count + 1, good + bool(is_right))
    return PageSummary(
        key=key,
        set=files.set,
        step=files.step,
        responses=len(responses),
        right=right.count(True),
        wrong=right.count(False),
        truncated=rows["finish_reason"].count("length"),
        dropped=sum(responses.groups[number]["dropped"] for number in rows["group"]),
        problems=problems,
    )
