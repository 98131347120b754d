"""Responses in the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
from numpy.typing import NDArray
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from reasoner_rl.errors import ConfigError, did_you_mean
from reasoner_rl.report.pieces import Piece
from reasoner_rl.report.responses import Responses, TokenColumns, lines_of
from reasoner_rl.report.run_files import RecordFiles

Verdict = Literal["right", "wrong", "unknown"]
TokenColour = Literal["logprob", "entropy", "advantage", "gap"]
_LOW, _HIGH = (213, 94, 0), (0, 114, 178)  # as on the page: orange and blue


@dataclass(frozen=True, slots=True)
class Choice:
    """Which responses are shown. None, False and 0: any."""

    verdict: Verdict | None = None
    truncated: bool = False
    dropped: bool = False
    status: str | None = None
    search: str | None = None  # a regular expression, in the response, the prompt or the name of the problem
    group: int | None = None  # number of the group within the step, from 0
    limit: int = 5

    def rows(self, responses: Responses) -> list[int]:
        """The rows that pass, in order. Raises ConfigError if ``search`` is no regular expression."""
        try:
            wanted = re.compile(self.search, re.IGNORECASE) if self.search else None
        except re.error as error:
            raise ConfigError(f"--search {self.search}: is not a regular expression: {error}") from error
        return [number for number, line in enumerate(lines_of(responses)) if self._passes(line, wanted)]

    def _passes(self, line: dict[str, Any], wanted: re.Pattern[str] | None) -> bool:
        return (
            (self.verdict is None or verdict_of(line["accuracy"]) == self.verdict)
            and (not self.truncated or line["finish_reason"] == "length")
            and (not self.dropped or line["dropped"])
            and (self.status is None or line["status"] == self.status)
            and (self.group is None or line["group"] == self.group)
            and (wanted is None or any(wanted.search(line[name]) for name in ("response", "prompt", "uid")))
        )


def verdict_of(accuracy: float | None) -> Verdict:
    """Right means full accuracy."""
    return "unknown" if accuracy is None else "right" if accuracy >= 1 else "wrong"


def show_responses(
    files: RecordFiles,
    responses: Responses,
    choice: Choice,
    colour: TokenColour | None = None,
    pieces: Sequence[Piece | None] | None = None,
    console: Console | None = None,
) -> None:
    """Print the chosen responses, each group's prompt once, and how many there are in all."""
    console = console or Console()
    rows, lines, group = choice.rows(responses), lines_of(responses), None
    for row in rows[: choice.limit]:
        line = lines[row]
        if line["group"] != group:
            group = line["group"]
            title = f"group {group}: {line['uid']}, expected {line['ground_truth']}"
            console.print(_panel(Text(line["prompt"]), title, "dim"))
        text = _coloured(responses.tokens, row, colour, pieces) if colour else Text(line["response"])
        style = {"right": "green", "wrong": "red", "unknown": "yellow"}[verdict_of(line["accuracy"])]
        console.print(_panel(text, _title(line), style))
    shown = min(len(rows), choice.limit)
    console.print(
        f"{files.set}, step {files.step}: {shown} shown of {len(rows)} that pass, {len(lines)} in all",
        markup=False,
    )
    found = sorted({line["status"] for line in lines})
    if choice.status is not None and choice.status not in found:
        near = did_you_mean(choice.status, found)
        console.print(f"--status {choice.status}: this step has {', '.join(found)}.{near}", markup=False)


def _panel(text: Text, title: str, style: str) -> Panel:
    """A title that is too long for the terminal ends in an ellipsis."""
    return Panel(text, title=Text(title, overflow="ellipsis"), title_align="left", border_style=style)


def _title(line: dict[str, Any]) -> str:
    parts = [
        verdict_of(line["accuracy"]),
        f"score {line['score']:.3g}",
        f"found {line['extracted']}" if line["extracted"] is not None else "no answer found",
        f"{line['tokens']} tokens",
        "truncated" if line["finish_reason"] == "length" else None,
        "dropped group" if line["dropped"] else None,
        None if line["status"] == "ok" else line["status"],
        None if line["advantage"] is None else f"advantage {line['advantage']:.3g}",
    ]
    return ", ".join(part for part in parts if part)


def _coloured(
    tokens: TokenColumns | None, row: int, colour: TokenColour, pieces: Sequence[Piece | None] | None
) -> Text:
    if tokens is None:
        raise ConfigError(
            f"--colour {colour}: these responses were read from JSONL, which has no per-token columns"
        )
    cut = slice(tokens.offsets[row], tokens.offsets[row + 1])
    columns: dict[TokenColour, NDArray[Any]] = {
        "logprob": tokens.logprobs[cut],
        "advantage": tokens.advantages[cut],
        "entropy": tokens.entropies[cut],
        "gap": tokens.trainer_logprobs[cut] - tokens.logprobs[cut],
    }
    values = columns[colour]
    top = 5.0 if colour == "logprob" else max(1e-3, float(numpy.nanmax(numpy.abs(values), initial=0.0)))
    text = Text()
    for number, value in zip(tokens.ids[cut], values, strict=True):
        piece = pieces[number] if pieces is not None and number < len(pieces) else None
        shown = (
            piece
            if isinstance(piece, str)
            else bytes(piece).decode(errors="replace")
            if piece
            else f"<{number}>"
        )
        text.append(shown, _style(float(value) / top))
    return text


def _style(share: float) -> str:
    """A background between black and the palette's colour; the ends are -1 and 1."""
    if not abs(share) > 0.02:
        return ""
    weight = min(1.0, abs(share)) ** 0.7
    red, green, blue = (round(part * weight) for part in (_HIGH if share > 0 else _LOW))
    return f"white on rgb({red},{green},{blue})"
