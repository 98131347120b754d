"""Finding the reward functions that a recipe names. Imports no torch: verifier processes load it."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reasoner_rl.errors import ConfigError
from reasoner_rl.plugins import describe, load_function
from reasoner_rl.rewards.contract import (
    EXPECTED_BATCH_CALL,
    EXPECTED_CALL,
    EXPECTED_RETURN,
    Answer,
    FunctionResult,
    FunctionSpec,
    ReturnError,
    RewardFunction,
    arguments,
    batch_arguments,
    call,
    call_batch,
    takes_batches,
)

MADE_UP_SAMPLE = Answer(
    "math_dapo", "6 times 7 is 42.\nAnswer: 42", "42", {"index": 0, "response_tokens": 12}
)


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """A reward function that can be called."""

    function: RewardFunction
    spec: FunctionSpec
    batch: bool  # it takes lists

    def judge(self, answers: list[Answer]) -> list[FunctionResult]:
        """Return a result per answer; one answer, unless the function takes lists. Raises what `call` does."""
        if self.batch:
            return call_batch(self.function, self.spec.parameters, answers)
        return [call(self.function, self.spec.parameters, answer) for answer in answers]


def load(spec: FunctionSpec) -> LoadedFunction:
    """Import a function and look whether it takes batches. Raises ConfigError with the reason."""
    function: RewardFunction = load_function(spec.fn, "reward function")
    return LoadedFunction(function, spec, takes_batches(function) if spec.batch is None else spec.batch)


def check_function(loaded: LoadedFunction, sample: Answer = MADE_UP_SAMPLE) -> FunctionResult:
    """Call a function in this process, so that a mistake in it shows before a run starts.

    ``sample``: a row of the data if the function needs a real one. The function is given an empty response
    too, which many functions judge in another way; one that takes a single answer may raise there, which counts
    as a wrong answer. Raises ConfigError saying what was expected and what came instead.
    """
    empty = sample._replace(response="")
    _bind(loaded, sample)
    result = _judge_sample(loaded, [sample, empty] if loaded.batch else [sample])
    if not loaded.batch:
        with suppress(_RaisedError):
            _judge_sample(loaded, [empty])
    return result


class _RaisedError(ConfigError):
    """The function raised, where others return something wrong."""


def _bind(loaded: LoadedFunction, sample: Answer) -> None:
    expected = EXPECTED_BATCH_CALL if loaded.batch else EXPECTED_CALL
    keywords: dict[str, Any] = batch_arguments([sample]) if loaded.batch else arguments(sample)
    parameters = loaded.spec.parameters
    try:
        inspect.signature(loaded.function).bind(**keywords, **parameters)
    except TypeError as error:
        remedy = "; what a failure counts as is set by failure_score, beside fn in the recipe"
        raise ConfigError(
            f"reward function {loaded.spec.fn!r} cannot be called as {expected} "
            f"with parameters {sorted(parameters)}: {error}{remedy if 'wrong_score' in parameters else ''}"
        ) from error
    except ValueError:
        pass  # some callables written in C have no signature; the call shows whether it fits


def _judge_sample(loaded: LoadedFunction, answers: list[Answer]) -> FunctionResult:
    try:
        return loaded.judge(answers)[0]
    except ReturnError as error:
        wanted = f"a list with, for each answer, {EXPECTED_RETURN}" if loaded.batch else EXPECTED_RETURN
        raise ConfigError(f"reward function {loaded.spec.fn!r} must return {wanted}; it {error}") from error
    except BaseException as error:  # KeyboardInterrupt too, which no one else raises where this runs
        raise _RaisedError(
            f"reward function {loaded.spec.fn!r} raised on a test call: {describe(error)}"
        ) from error
