"""Finding the reward functions that a recipe names. Imports no torch: verifier processes load it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reasoner_rl.errors import ConfigError, did_you_mean
from reasoner_rl.rewards.contract import (
    EXPECTED_CALL,
    EXPECTED_RETURN,
    FunctionResult,
    RewardFunction,
    read_result,
)

if TYPE_CHECKING:
    from reasoner_rl.config.reward import RewardFunctionConfig

MADE_UP_SAMPLE: Mapping[str, Any] = {
    "data_source": "math_dapo",
    "solution_str": "6 times 7 is 42.\nAnswer: 42",
    "ground_truth": "42",
    "extra_info": {"index": 0},
}


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


def check_function(
    config: RewardFunctionConfig, function: RewardFunction, sample: Mapping[str, Any] = MADE_UP_SAMPLE
) -> FunctionResult:
    """Call ``function`` in this process, so that a mistake in it shows before a run starts.

    ``sample``: the four arguments of `EXPECTED_CALL`; a row of the data if the function needs a real one. It is
    called once more with an empty response, which many functions judge in another way; there it may raise, which
    counts as a wrong answer. Raises ConfigError saying what was expected and what came instead.
    """
    try:
        inspect.signature(function).bind(**sample, **config.parameters)
    except TypeError as error:
        raise ConfigError(
            f"reward function {config.fn!r} cannot be called as {EXPECTED_CALL} "
            f"with parameters {sorted(config.parameters)}: {error}"
        ) from error
    except ValueError:
        pass  # some callables written in C tell no signature; the call below shows whether it fits
    try:
        returned = function(**sample, **config.parameters)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"reward function {config.fn!r} raised on a test call: {describe(error)}"
        ) from error
    result = _read(config, returned)
    with suppress(Exception, SystemExit):
        returned = function(**{**sample, "solution_str": ""}, **config.parameters)
    _read(config, returned)
    return result


def describe(error: BaseException) -> str:
    """Return an exception's type, message, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _read(config: RewardFunctionConfig, returned: object) -> FunctionResult:
    try:
        return read_result(returned)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward function {config.fn!r} must return {EXPECTED_RETURN}; it returned {returned!r}: {error}"
        ) from error


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
