"""Fingerprints of data, by which a resumed run notices that its prompts are not those it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reasoner_rl.types import Example, Prompt

# JSON: {"rows": count, "contents": hash without order, "order": hash with order, "without_source": see below}
Fingerprint = Mapping[str, Any]


def fingerprint(rows: Iterable[Prompt | Example]) -> Fingerprint:
    """Count and hashes of prompts as the model reads them, with all that a reward function is given with them.

    Names of files do not count, so data may move, except where a file's name is its rows' data_source. A further hash,
    without data_source, shows whether that is all that differs.
    """
    digests = [_digests(row) for row in rows]
    return {
        "rows": len(digests),
        "contents": _joint(sorted(unnumbered for unnumbered, _, _ in digests)),
        "order": _joint(numbered for _, numbered, _ in digests),
        "without_source": _joint(sourceless for _, _, sourceless in digests),
    }


def prompt_hash(prompt: Prompt) -> str:
    """SHA-256 of the token ids of one prompt."""
    return hashlib.sha256(_json(list(prompt.token_ids)).encode()).hexdigest()


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


def _digests(row: Prompt | Example) -> tuple[bytes, bytes, bytes]:
    """Hashes of a row without its place, with it, and with it but without its data_source."""
    if not isinstance(row, Prompt):
        fields: list[Any] = [
            part for sample in row for part in (sample.prompt_ids.tolist(), sample.response_ids.tolist())
        ]
        if any(sample.reward for sample in row):
            fields += [sample.reward for sample in row]
        digest = hashlib.sha256(_json(fields).encode()).digest()
        return digest, digest, digest
    # The hash of a JSON list, whose beginning, with the tokens, the three have in common.
    beginning = hashlib.sha256(f"[{_json(list(row.token_ids))}, {_json(row.ground_truth)}, ".encode())

    def ended(data_source: str, told: Mapping[str, Any]) -> bytes:
        whole = beginning.copy()
        whole.update(f"{_json(data_source)}, {_json(told)}]".encode())
        return whole.digest()

    told = dict(row.extra_info)
    # The row's place is another in another order.
    unnumbered = {name: value for name, value in told.items() if name != "index"}
    return ended(row.data_source, unnumbered), ended(row.data_source, told), ended("", told)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _joint(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()
