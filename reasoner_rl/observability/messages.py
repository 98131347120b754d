"""Messages of a command to its user, between lines of progress."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.text import Text


def plain_console(*, stderr: bool = False) -> Console:
    """A console that writes lines of text to standard output, also in a notebook.

    There rich would otherwise show each line as a piece of HTML of its own, which nothing that redirects standard
    output would see.
    """
    return Console(stderr=stderr, force_jupyter=False)


_CONSOLE = plain_console()


def say(text: str) -> None:
    """Tell the user something, whole and unstyled."""
    _CONSOLE.print(text, soft_wrap=True, highlight=False, markup=False)


def show(title: str, text: str) -> None:
    """Show the user a text in a frame."""
    _CONSOLE.print(Panel(Text(text), title=title, title_align="left"))


def one_line(text: str, longest: int) -> str:
    """A text on one line, cut to ``longest`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
