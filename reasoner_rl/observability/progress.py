"""Progress of long work on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reasoner_rl.observability.messages import plain_console

SECONDS_BETWEEN_LINES = 30


class Advance(Protocol):
    """What is called while the work is done: ``amount`` more of the total are done, and ``tokens`` were generated.

    ``total`` replaces the total, where more work has been begun than was known at first.
    """

    def __call__(self, amount: int, tokens: int = 0, total: int | None = None) -> None: ...


@contextmanager
def progress_bar(enabled: bool | Literal["auto"], description: str, total: int) -> Iterator[Advance]:
    """Show how far the block is, of ``total``; it calls what this yields.

    On a terminal a bar is shown, and taken away afterwards. In a log file or a notebook, whatever FORCE_COLOR says, a
    line is written every `SECONDS_BETWEEN_LINES`, at the next call, so that work that takes less writes nothing.
    Nothing is shown when ``enabled`` is False.
    """
    console = plain_console(stderr=True)
    if enabled is False:
        yield _ignore
    elif console.file.isatty():
        with _bar(console, description, total) as advance:
            yield advance
    else:
        yield _Lines(description, total).advance


def _ignore(amount: int, tokens: int = 0, total: int | None = None) -> None:
    """Show nothing."""


@contextmanager
def _bar(console: Console, description: str, total: int) -> Iterator[Advance]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
        console=console,
        transient=True,
    )
    begun, generated = monotonic(), 0
    with progress:
        task = progress.add_task(description, total=total, speed="")

        def advance(amount: int, tokens: int = 0, total: int | None = None) -> None:
            nonlocal generated
            generated += tokens
            progress.update(task, advance=amount, total=total, speed=_speed(generated, monotonic() - begun))

        yield advance


class _Lines:
    """Progress in a log file."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total = description, total
        self._begun = self._last = monotonic()
        self._done = self._tokens = 0

    def advance(self, amount: int, tokens: int = 0, total: int | None = None) -> None:
        """See `Advance`."""
        self._total = self._total if total is None else total
        self._done += amount
        self._tokens += tokens
        if (now := monotonic()) - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(self._line(now - self._begun), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        parts = [
            f"  {self._description}: {self._done:,} of {self._total:,}",
            _speed(self._tokens, seconds),
            f"{_rounded(seconds)} passed",
        ]
        if 0 < self._done < self._total:
            parts.append(f"about {_rounded(seconds * (self._total / self._done - 1))} left")
        return ", ".join(filter(None, parts))


def _speed(tokens: int, seconds: float) -> str:
    return f"{tokens:,} tokens ({tokens / seconds:,.0f} per second)" if tokens and seconds > 0 else ""


def _rounded(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
