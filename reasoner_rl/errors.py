"""Errors that a user can cause and mend. The command line prints their text and no traceback."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


class UserError(ValueError):
    """Something in the user's input is wrong. The text names the place, the value and the rule."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in a notebook: as on the command line, the text without a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(UserError):
    """A key of the configuration is unknown, or its value breaks a rule."""


class DataError(UserError):
    """A file of prompts or examples cannot be used; the text names the file and the row."""


class DiskFullError(UserError):
    """Something does not fit on a disk; the text names what, the disk, and the room that is needed and free."""


class MissingExtraError(UserError):
    """An optional package is not installed; the text names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'reasoner_rl[{extra}]'"
        )


def require_package(module: str, package: str, extra: str, purpose: str) -> None:
    """Raise MissingExtraError unless ``module``, which ``package`` brings, can be imported."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the module that it would be in
        found = None
    if found is None:
        raise MissingExtraError(package, extra, purpose)


class WorkerError(RuntimeError):
    """A process failed, died or hung; the text names a worker's rank and machine. Checkpoints are whole."""


class DriftError(RuntimeError):
    """Something has left its course, and was to end the run or the check; the text names what, and the evidence."""


class GoBackError(RuntimeError):
    """A run is to go on from an earlier checkpoint within the same command, after an alarm. The text says why.

    checkpoint: step and folder. returns: how often the run has gone back then.
    """

    def __init__(self, why: str, checkpoint: tuple[int, Path], returns: int) -> None:
        super().__init__(why)
        self.checkpoint, self.returns = checkpoint, returns


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def related_errors(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it: causes, contexts, members of groups, failures of ranks."""
    waiting, seen = [error], set[int]()
    while waiting:
        related = waiting.pop(0)
        if id(related) in seen:
            continue
        seen.add(id(related))
        yield related
        waiting += [cause for cause in (related.__cause__, related.__context__) if cause is not None]
        if isinstance(related, BaseExceptionGroup):
            waiting += related.exceptions
        # Of torch's CheckpointException: rank -> (error, traceback).
        failures = getattr(related, "failures", None)
        if isinstance(failures, Mapping):
            waiting += [failure[0] for failure in failures.values()]


def is_interruption(error: BaseException) -> bool:
    """Whether an error is, or was raised because of, KeyboardInterrupt."""
    return any(isinstance(related, KeyboardInterrupt) for related in related_errors(error))
