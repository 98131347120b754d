"""Messages of a command to its user, between lines of progress."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

_CONSOLE = Console()


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
