"""Fingerprints of data, by which a resumed run notices that its prompts are not those it began with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reasoner_rl.types import Prompt, TrainSample

# JSON: {"rows": count, "contents": hash without order, "order": hash with order, "without_source": see below}
Fingerprint = Mapping[str, Any]


def fingerprint(rows: Iterable[Prompt | TrainSample]) -> Fingerprint:
    """Count and hashes of prompts as the model reads them, with all that a reward function is given with them.

    Names of files do not count, so data may move, except where a file's name is its rows' data_source. A further hash,
    without data_source, shows whether that is all that differs.
    """
    rows = list(rows)
    return {
        "rows": len(rows),
        "contents": _joint(sorted(_digest(row, numbered=False) for row in rows)),
        "order": _joint(_digest(row, numbered=True) for row in rows),
        "without_source": _joint(_digest(_without_source(row), numbered=True) for row in rows),
    }


def difference(old: Fingerprint, new: Fingerprint) -> str | None:
    """How data with the second fingerprint differ from those with the first, or None."""
    if (old["rows"], old["order"]) == (new["rows"], new["order"]):
        return None
    if old["rows"] != new["rows"]:
        return f"{new['rows']:,} rows instead of {old['rows']:,}"
    if old["contents"] == new["contents"]:
        return "the same rows in another order"
    if old.get("without_source") == new["without_source"]:
        return "the same rows with another data_source (the file's name, where no column says it)"
    return "other rows"


def _without_source(row: Prompt | TrainSample) -> Prompt | TrainSample:
    return dataclasses.replace(row, data_source="") if isinstance(row, Prompt) else row


def _digest(row: Prompt | TrainSample, *, numbered: bool) -> bytes:
    if isinstance(row, Prompt):
        told = dict(row.extra_info)
        if not numbered:
            told.pop("index", None)  # the row's place, which is another in another order
        fields = [list(row.token_ids), row.ground_truth, row.data_source, told]
    else:
        fields = [row.prompt_ids.tolist(), row.response_ids.tolist()]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=repr).encode()).digest()


def _joint(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()
