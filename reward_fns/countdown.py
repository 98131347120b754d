"""Countdown: reach a target with each of some numbers used once. The expression is computed, never executed as code."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reward_fns.answers import reading
from reward_fns.answers.exact import exact_value
from reward_fns.answers.values import Named, Number, Operation, Quantity, walk
from reward_fns.extraction import find_answer, without_thinking

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ALLOWED = {"add", "negate", "multiply", "divide"}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return ``score``, ``acc``, ``pred`` (the expression) and ``status``.

    ground_truth: ``{"target": 24, "numbers": [1, 2, 3, 4]}``, or that as JSON, which is what a mapping in a data file
    becomes while it is read; the numbers may stand in ``extra_info``.
    The expression stands in the last <answer></answer>, box or ``Answer:`` line; ``= 24`` behind it is ignored.
    Raises ValueError where the ground truth is something else.
    """
    target, numbers = _task(ground_truth, extra_info or {})
    tags = _TAG.findall(without_thinking(solution_str))
    answer = tags[-1].strip() if tags else find_answer(solution_str)
    expression = None if answer is None else _expression(answer.partition("=")[0])
    if expression is None:
        return {"score": wrong_score, "acc": False, "pred": answer, "status": "unparsed"}
    used = Counter(node.value for node in walk(expression) if isinstance(node, Number))
    operations = {node.name for node in walk(expression) if isinstance(node, Operation)}
    correct = operations <= _ALLOWED and used == Counter(numbers) and exact_value(expression) == target
    return {
        "score": correct_score if correct else wrong_score,
        "acc": correct,
        "pred": answer,
        "status": "correct" if correct else "wrong",
    }


def _task(ground_truth: Any, extra_info: Mapping[str, Any]) -> tuple[int, list[int]]:
    task = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    if not isinstance(task, Mapping):
        task = {"target": task}
    numbers = task.get("numbers", extra_info.get("numbers"))
    if "target" not in task or numbers is None:
        raise ValueError(f"the ground truth must hold 'target' and 'numbers'; it is {ground_truth!r}")
    return int(task["target"]), [int(number) for number in numbers]


def _expression(text: str) -> Number | Operation | None:
    value = reading(text)
    if isinstance(value, Named):
        value = value.value
    found = value.expression if isinstance(value, Quantity) and not value.unit else None
    return found if isinstance(found, Number | Operation) else None
