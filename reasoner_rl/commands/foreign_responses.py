"""Responses that another program generated, read from JSONL or parquet as groups that are not scored yet.

A row is one response, or all of a problem. Rows of the same problem are one group, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner_rl.errors import DataError, did_you_mean
from reasoner_rl.prompts.read import TRUTH_RULE, Place, rows_of_file, truth_text
from reasoner_rl.types import FinishReason, Prompt, Reward, Rollout, ScoredGroup

QUESTION_KEYS = ("question", "problem", "prompt")
ID_KEYS = ("id", "uid", "index")
RESPONSE_KEYS = ("response", "responses", "solution", "completion", "output", "generation")
TRUTH_KEYS = ("gold", "ground_truth", "answer", "target")
_UNSCORED = Reward(0.0, None, {})


@dataclass(frozen=True, slots=True)
class ForeignResponses:
    """One file."""

    groups: list[ScoredGroup]  # the prompt's text is the question, or the id where there is none
    lengths_known: bool  # every row says `tokens` and `finish_reason`


@dataclass(slots=True)
class _Gathered:
    """The responses to one problem, as far as the file was read."""

    prompt: Prompt
    rollouts: list[Rollout]


def read_responses(path: Path, label: str) -> ForeignResponses:
    """Read one file. Raises DataError naming the file, the row, the key and the rule."""
    found: dict[str, _Gathered] = {}
    lengths_known = True
    for number, row in rows_of_file(path):
        place = Place(path, label, number)
        key, text = _problem(place, row)
        _, truth = _first(place, row, TRUTH_KEYS)
        gold = truth_text(truth)
        if gold is None:
            raise place.error(TRUTH_KEYS[0], truth, TRUTH_RULE)
        if key not in found:
            found[key] = _Gathered(_prompt(place, row, len(found), text, gold), [])
        first = found[key].prompt
        for what, value, wanted in (("gold", gold, first.ground_truth), ("question", text, first.text)):
            if value != wanted:
                raise place.error(what, value, f"must be that of the problem's first row, {wanted!r}")
        lengths_known &= isinstance(row.get("tokens"), int) and isinstance(row.get("finish_reason"), str)
        found[key].rollouts += _rollouts(place, row)
    if not found:
        raise DataError(f"{path}: the file holds no rows")
    counts = {len(of_problem.rollouts) for of_problem in found.values()}
    if len(counts) > 1:
        fewest = min(found.values(), key=lambda of_problem: len(of_problem.rollouts))
        raise DataError(
            f"{path}: every problem needs the same number of responses; there are {min(counts)} to {max(counts)} "
            f"(the fewest for {fewest.prompt.uid})"
        )
    groups = [
        ScoredGroup(g.prompt, tuple(g.rollouts), (_UNSCORED,) * len(g.rollouts)) for g in found.values()
    ]
    return ForeignResponses(groups, lengths_known)


def _problem(place: Place, row: Mapping[str, Any]) -> tuple[str, str]:
    """What tells the problem of a row from others, and its text."""
    identifiers = [str(row[key]) for key in ID_KEYS if row.get(key) is not None]
    questions = [key for key in QUESTION_KEYS if row.get(key) is not None]
    if not identifiers and not questions:
        _first(place, row, (*QUESTION_KEYS, *ID_KEYS))
    if not questions:
        return identifiers[0], identifiers[0]
    text = row[questions[0]]
    if isinstance(text, list) and text and isinstance(text[-1], Mapping):  # messages
        text = text[-1].get("content")
    if not isinstance(text, str) or not text.strip():
        raise place.error(questions[0], row[questions[0]], "must be text, and not empty")
    return (identifiers[0] if identifiers else text), text


def _prompt(place: Place, row: Mapping[str, Any], number: int, text: str, gold: str) -> Prompt:
    source, extra_info = row.get("data_source") or "", row.get("extra_info") or {}
    if not isinstance(source, str):
        raise place.error("data_source", source, "must be text")
    if not isinstance(extra_info, dict):
        raise place.error("extra_info", extra_info, "must be a mapping")
    return Prompt(f"{place.label}/{number}", (), text, gold, source, extra_info)


def _rollouts(place: Place, row: Mapping[str, Any]) -> list[Rollout]:
    key, value = _first(place, row, RESPONSE_KEYS)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise place.error(key, value, "must be text, or a list of texts that is not empty")
    tokens, reason = row.get("tokens"), row.get("finish_reason")
    count = tokens if isinstance(tokens, int) and len(texts) == 1 else 0
    cut: FinishReason = "length" if reason == "length" else "stop"
    return [Rollout((0,) * count, (0.0,) * count, cut, 0, text) for text in texts]


def _first(place: Place, row: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, Any]:
    for key in keys:
        if row.get(key) is not None:
            return key, row[key]
    near = next((text for key in row if (text := did_you_mean(key, keys))), "")
    raise DataError(
        f"{place.path}, row {place.number}: no key {', '.join(keys[:-1])} or {keys[-1]}; found "
        f"{', '.join(map(str, row)) or 'none'}.{near}"
    )
