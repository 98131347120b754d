"""Responses that another program generated, gathered by problem as groups that are not scored yet.

Rows are read as `reasoner-rl verify` reads them (`generations`). Rows of the same problem are one group, in the order
of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner_rl.commands.generations import PROBLEM_KEYS, Columns, Generation, needed, read_generations
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.read import Place
from reasoner_rl.types import FinishReason, Prompt, Reward, Rollout, ScoredGroup

QUESTION_KEYS = ("question", "problem", "prompt")  # whose text is the problem's
_UNSCORED = Reward(0.0, None, {})


@dataclass(frozen=True, slots=True)
class ForeignResponses:
    """One file."""

    groups: list[ScoredGroup]  # the prompt's text is the question, or the id where there is none
    lengths_known: bool  # every row has one response, with `tokens` and `finish_reason`


@dataclass(slots=True)
class _Gathered:
    """The responses to one problem, as far as the file was read."""

    prompt: Prompt
    rollouts: list[Rollout]


def read_responses(path: Path, label: str, columns: Columns | None = None) -> ForeignResponses:
    """Read one file. Raises DataError naming the file, the row, the key and the rule."""
    if columns is None:
        columns = Columns()
    found: dict[str, _Gathered] = {}
    lengths_known = True
    for row in read_generations(path, columns):
        place = Place(path, label, row.row)
        text = _text(place, row, columns)
        if row.problem not in found:
            uid = f"{label}/{len(found)}"
            prompt = Prompt(uid, (), text, row.ground_truth, row.data_source, row.extra_info)
            found[row.problem] = _Gathered(prompt, [])
        first = found[row.problem].prompt
        for what, value, wanted in (
            ("gold", row.ground_truth, first.ground_truth),
            ("question", text, first.text),
        ):
            if value != wanted:
                raise place.error(what, value, f"must be that of the problem's first row, {wanted!r}")
        lengths_known &= _knows_lengths(row)
        found[row.problem].rollouts += _rollouts(row)
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


def _text(place: Place, row: Generation, columns: Columns) -> str:
    """The problem's text, or what names it where the row has no text."""
    if not row.problem:
        key, value = needed(place, row.content, "problem", columns.problem, PROBLEM_KEYS)
        raise place.error(key, value, "must name the problem")
    text: Any = next((row.content[key] for key in QUESTION_KEYS if row.content.get(key) is not None), None)
    if isinstance(text, list) and text and isinstance(text[-1], Mapping):  # messages
        text = text[-1].get("content")
    if text is None:
        return row.problem
    if not isinstance(text, str) or not text.strip():
        raise place.error("question", text, "must be text, and not empty")
    return text


def _knows_lengths(row: Generation) -> bool:
    """Whether `tokens` and `finish_reason` are there, which are of one response."""
    tokens, reason = row.content.get("tokens"), row.content.get("finish_reason")
    return not row.listed and isinstance(tokens, int) and isinstance(reason, str)


def _rollouts(row: Generation) -> list[Rollout]:
    count = row.response_tokens  # 0 where it is not known
    cut: FinishReason = "length" if row.content.get("finish_reason") == "length" else "stop"
    return [Rollout((0,) * count, (0.0,) * count, cut, 0, text) for text in row.responses]
