"""Functions of the user's own that a recipe names, such as a reward function or an algorithm.

Imports no torch: verifier processes load it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from reasoner_rl.errors import ConfigError, did_you_mean

LONGEST_MESSAGE = 2000  # characters of an exception's text that are passed on


def load_function(fn: str, what: str) -> Callable[..., Any]:
    """Import ``package.module:function`` or ``path/to/file.py:function`` (relative to the current folder).

    what: "reward function", for messages. Raises ConfigError with the reason.
    """
    place, _, name = fn.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{what} {fn!r} must read package.module:function or path/to/file.py:function")
    is_file = place.endswith(".py") or "/" in place
    try:
        module = _import_file(Path(place)) if is_file else importlib.import_module(place)
    except ConfigError as error:
        raise ConfigError(f"{what} {fn!r}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what} {fn!r}: {_why_not_imported(place, error)}") from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(f"{what} {fn!r}: {place} has no {name!r}.{did_you_mean(name, functions)}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"{what} {fn!r}: {name!r} is no function but a {type(function).__name__}")
    loaded: Callable[..., Any] = function
    return loaded


def check_call(subject: str, function: Callable[..., Any], call: str, *arguments: Any, **named: Any) -> None:
    """Raise ConfigError if the function cannot take these arguments; one without a signature is not checked.

    subject: the function as the user knows it, and ``call`` how it is called, for the message.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise ConfigError(f"{subject} cannot be called as {call}: {error}") from None


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
