"""What a reward function is called with and may return. Imports no torch: verifier processes load it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat

if TYPE_CHECKING:
    import asyncio

RewardFunction = Callable[..., Any]

EXPECTED_CALL = "fn(data_source=..., solution_str=..., ground_truth=..., extra_info=..., **parameters)"
EXPECTED_BATCH_CALL = (
    "fn(data_sources=[...], solution_strs=[...], ground_truths=[...], extra_infos=[...], **parameters)"
)
EXPECTED_RETURN = (
    "a number, or a dict with 'score' (number) and, if wanted, 'acc' (bool or 0 to 1) and 'pred'"
)
# What a returned dict's "status" may say that is counted; the others ("correct", "wrong") are what "acc" says.
COUNTED_STATUSES = ("timeout", "crash", "unparsed", "undecided")
RESPONSE_TOKENS = "response_tokens"  # the key of extra_info for the response's length
OPENED_TAG = "opened_tag"  # the key of extra_info for the tag with which the prompt ends, such as "think"
_OPENED_TAG = re.compile(r"<([A-Za-z][A-Za-z0-9_]*)>\s*\Z")
LONGEST_SHOWN = 400  # characters of a wrong return value


class ReturnError(Exception):
    """A function returned what it may not; the text, to follow 'it', says what and why not."""


class Answer(NamedTuple):
    """What a function is given for one response."""

    data_source: str
    response: str
    ground_truth: str
    extra_info: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A reward function by name, as it is sent to a verifier process."""

    fn: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: bool | None = None  # None: decided by its signature


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What one reward function made of one response."""

    score: float
    accuracy: float | None  # in [0, 1]; None: the function does not say whether the response is right
    extracted: str | None = None
    components: Mapping[str, float] = field(default_factory=dict)  # the other numbers of a returned dict
    status: str = "ok"  # "ok" or one of COUNTED_STATUSES
    failed: bool = False  # the function gave no verdict: it raised, ended its process, or took too long


def opened_tag(prompt: str) -> str:
    """The tag that a rendered prompt leaves open at its end, such as ``think``; "" where there is none."""
    found = _OPENED_TAG.search(prompt, max(0, len(prompt) - 100))
    return found[1] if found else ""


def call(function: RewardFunction, parameters: Mapping[str, Any], answer: Answer) -> FunctionResult:
    """Call a reward function and read what it returns. Raises what it raises, and ReturnError."""
    return read_result(_finish(function(**arguments(answer), **parameters)))


def call_batch(
    function: RewardFunction, parameters: Mapping[str, Any], answers: Sequence[Answer]
) -> list[FunctionResult]:
    """Call a function that takes lists. Raises what it raises, and ReturnError."""
    return read_results(_finish(function(**batch_arguments(answers), **parameters)), len(answers))


def arguments(answer: Answer) -> dict[str, Any]:
    """The keywords of `EXPECTED_CALL` without the parameters."""
    source, response, truth, extra_info = answer
    return {
        "data_source": source,
        "solution_str": response,
        "ground_truth": truth,
        "extra_info": dict(extra_info),
    }


def batch_arguments(answers: Sequence[Answer]) -> dict[str, list[Any]]:
    """The keywords of `EXPECTED_BATCH_CALL` without the parameters, as verl's batch reward manager names them."""
    each = [arguments(answer) for answer in answers]
    names = {
        "data_sources": "data_source",
        "solution_strs": "solution_str",
        "ground_truths": "ground_truth",
        "extra_infos": "extra_info",
    }
    return {plural: [one[singular] for one in each] for plural, singular in names.items()}


def takes_batches(function: RewardFunction) -> bool:
    """Whether a function's signature is that of `EXPECTED_BATCH_CALL`."""
    try:
        return "solution_strs" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False


_event_loop: asyncio.Runner | None = None


def _finish(returned: Any) -> Any:
    """Await what an async function returns; on one event loop, so that its clients outlive a call."""
    global _event_loop
    if not inspect.isawaitable(returned):
        return returned
    import asyncio  # costs starting processes time, and few functions need it

    async def wait() -> Any:
        return await returned

    if _event_loop is None:
        _event_loop = asyncio.Runner()
    return _event_loop.run(wait())


def read_results(returned: object, answers: int) -> list[FunctionResult]:
    """Turn what a batch function returned into a result per answer. Raises ReturnError."""
    if isinstance(returned, Mapping | str) or not isinstance(returned, Iterable):
        raise ReturnError(f"returned {_shown(returned)} of type {type(returned).__name__}")
    listed = list(returned)
    if len(listed) != answers:
        raise ReturnError(f"returned {len(listed)} results for {answers} answers")
    return [read_result(one) for one in listed]


def read_result(returned: object) -> FunctionResult:
    """Turn what a function returned for one answer into a FunctionResult. Raises ReturnError naming the entry."""
    try:
        return _read(returned)
    except (TypeError, ValueError) as error:
        raise ReturnError(f"returned {_shown(returned)}: {error}") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _read(returned: object) -> FunctionResult:
    if not isinstance(returned, Mapping):
        return FunctionResult(_finite("the score", returned), _verdict(returned))
    if "score" not in returned:
        raise ValueError(f"a dict without 'score'; its keys are {sorted(map(str, returned))}")
    score = _finite("'score'", returned["score"])
    accuracy = _finite("'acc'", returned["acc"]) if "acc" in returned else _verdict(returned["score"])
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"'acc' must be a bool or lie in 0 to 1; it is {accuracy}")
    prediction = returned.get("pred")
    components = {
        str(name): number
        for name, value in returned.items()
        if name not in ("score", "acc", "pred", "status") and (number := _number_or_none(value)) is not None
    }
    extracted, status = None if prediction is None else str(prediction), returned.get("status")
    counted = isinstance(status, str) and status in COUNTED_STATUSES
    return FunctionResult(score, accuracy, extracted, components, str(status) if counted else "ok")


def _verdict(score: object) -> float | None:
    """The accuracy that follows from a score alone: True is right and False wrong. A number may be partial credit."""
    is_bool = type(score).__name__ in ("bool", "bool_")  # Python's, or numpy's
    return float(bool(score)) if is_bool else None


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
