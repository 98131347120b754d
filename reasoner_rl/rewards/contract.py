"""What a reward function is called with and may return. Imports no torch: verifier processes load it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

RewardFunction = Callable[..., Any]

EXPECTED_CALL = "fn(data_source=..., solution_str=..., ground_truth=..., extra_info=..., **parameters)"
EXPECTED_RETURN = (
    "a number, or a dict with 'score' (number) and, if wanted, 'acc' (bool or 0 to 1) and 'pred'"
)


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What one reward function made of one response."""

    score: float
    accuracy: float  # in [0, 1]
    extracted: str | None = None
    components: Mapping[str, float] = field(default_factory=dict)  # the other numbers of a returned dict
    status: str = "ok"  # "ok", "timeout" or "crash"


def call(
    function: RewardFunction,
    parameters: Mapping[str, Any],
    data_source: str,
    response: str,
    ground_truth: str,
    extra_info: Mapping[str, Any],
) -> FunctionResult:
    """Call a reward function and read what it returns. Raises what it raises, and what `read_result` does."""
    returned = function(
        data_source=data_source,
        solution_str=response,
        ground_truth=ground_truth,
        extra_info=dict(extra_info),
        **parameters,
    )
    return read_result(returned)


def read_result(returned: object) -> FunctionResult:
    """Turn a returned value into a FunctionResult. Raises TypeError or ValueError naming the entry."""
    if not isinstance(returned, Mapping):
        score = _finite("the score", returned)
        return FunctionResult(score, 1.0 if score > 0 else 0.0)
    if "score" not in returned:
        raise ValueError(f"returned a dict without 'score'; its keys are {sorted(map(str, returned))}")
    score = _finite("'score'", returned["score"])
    accuracy = _finite("'acc'", returned["acc"]) if "acc" in returned else (1.0 if score > 0 else 0.0)
    if not 0 <= accuracy <= 1:
        raise ValueError(f"'acc' must be a bool or lie in 0 to 1; it is {accuracy}")
    prediction = returned.get("pred")
    components = {
        str(name): number
        for name, value in returned.items()
        if name not in ("score", "acc", "pred") and (number := _number_or_none(value)) is not None
    }
    return FunctionResult(score, accuracy, None if prediction is None else str(prediction), components)


def _number_or_none(value: object) -> float | None:
    """An entry beside the verdict, if it is a finite number: whatever else it is, the verdict stands."""
    try:
        return _finite("", value)
    except (TypeError, ValueError):
        return None


def _finite(name: str, value: object) -> float:
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a number; it is {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; it is {number}")
    return number
