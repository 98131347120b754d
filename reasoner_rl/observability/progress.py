"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reasoner_rl.observability.messages import plain_console


@contextmanager
def progress_bar(
    enabled: bool | Literal["auto"], description: str, total: int
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs, and take it away afterwards.

    Yields ``advance(n)``: n more of ``total`` are done. Nothing is written when ``enabled`` is False or
    standard error is not a terminal, so that log files and notebooks stay clean, whatever FORCE_COLOR says.
    """
    console = plain_console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=enabled is False or not console.file.isatty(),
    )
    with progress:
        task = progress.add_task(description, total=total)

        def advance(amount: int) -> None:
            progress.advance(task, amount)

        yield advance
