"""Finding the reward functions that a recipe names. Imports no torch: verifier processes load it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from reasoner_rl.errors import ConfigError, did_you_mean
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
LONGEST_MESSAGE = 2000  # characters of an exception's text that are passed on


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """A reward function that can be called."""

    function: RewardFunction
    spec: FunctionSpec
    batch: bool  # it takes lists

    def judge(self, answers: list[Answer]) -> list[FunctionResult]:
        """Return a result an answer; one answer, unless the function takes lists. Raises what `call` does."""
        if self.batch:
            return call_batch(self.function, self.spec.parameters, answers)
        return [call(self.function, self.spec.parameters, answer) for answer in answers]


def load(spec: FunctionSpec) -> LoadedFunction:
    """Import a function and look whether it takes batches. Raises ConfigError with the reason."""
    function = load_function(spec.fn)
    return LoadedFunction(function, spec, takes_batches(function) if spec.batch is None else spec.batch)


def load_function(fn: str) -> RewardFunction:
    """Import ``package.module:function`` or ``path/to/file.py:function`` (relative to the current folder).

    Raises ConfigError with the reason.
    """
    place, _, name = fn.rpartition(":")
    if not place or not name:
        raise ConfigError(
            f"reward function {fn!r} must read package.module:function or path/to/file.py:function"
        )
    is_file = place.endswith(".py") or "/" in place
    try:
        module = _import_file(Path(place)) if is_file else importlib.import_module(place)
    except ConfigError as error:
        raise ConfigError(f"reward function {fn!r}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"reward function {fn!r}: {_why_not_imported(place, error)}") from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(f"reward function {fn!r}: {place} has no {name!r}.{did_you_mean(name, functions)}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"reward function {fn!r}: {name!r} is no function but a {type(function).__name__}")
    loaded: RewardFunction = function
    return loaded


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
        pass  # some callables written in C tell no signature; the call shows whether it fits


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


def describe(error: BaseException) -> str:
    """Return an exception's type, message, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    try:
        message = str(error)[:LONGEST_MESSAGE]
    except Exception:  # its own fault too
        message = "(without a readable message)"
    return f"{type(error).__name__}: {message}{place}"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r} (looked from {str(Path.cwd())!r})")
    resolved = path.resolve()
    name = f"{resolved.stem}_{hashlib.blake2b(str(resolved).encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while it is being executed
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _why_not_imported(place: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
        return (
            f"there is no module {error.name!r}; a file is named by its path, as in path/to/file.py:function"
        )
    return f"importing {place} failed: {describe(error)}"
