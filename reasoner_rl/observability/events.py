"""What happened to a run, in events.jsonl of its folder: starts, warnings, alarms, stops, errors, restarts, its end.

The file is appended to by every start in the folder, so a run that fails again and again shows it. Skipped steps and
the gaps of weight syncs are numbers of a step and stand in metrics.jsonl.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from reasoner_rl.errors import DataError, GoBackError
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import json_ready, naming

EventKind = Literal["start", "resume", "warning", "alarm", "return", "stop", "error", "restart", "end"]
EVENTS = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the file."""

    step: int  # finished steps at that time
    time: str  # ISO 8601, UTC
    kind: EventKind
    text: str
    details: Mapping[str, Any] | None = (
        None  # of an alarm: see `trends.Alarm`; not written where there are none
    )


class EventLog:
    """Appends events to a file, each flushed before `write` returns; a torn last line of a killed process goes first.

    step: called at each event; returns how many steps are finished.
    """

    def __init__(self, path: Path, step: Callable[[], int]) -> None:
        self._path, self._step = path, step
        if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)

    def write(self, kind: EventKind, text: str, details: Mapping[str, Any] | None = None) -> None:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = asdict(Event(self._step(), now, kind, text, details))
        if details is None:
            del event["details"]
        line = json.dumps(json_ready(event))
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class _Warnings(logging.Handler):
    """Records warnings of this package, and leaves what is printed of them as it would be without a handler."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write("warning", record.getMessage())
        if not logging.root.handlers and logging.lastResort is not None:
            logging.lastResort.handle(record)


@contextmanager
def recorded_events(path: Path, step: Callable[[], int]) -> Iterator[EventLog]:
    """An open log that while the block runs also takes this package's warnings, and the error that ends the block."""
    log = EventLog(path, step)
    handler, logger = _Warnings(log), logging.getLogger("reasoner_rl")
    logger.addHandler(handler)
    try:
        yield log
    except GoBackError as error:
        log.write("return", str(error))
        raise
    except BaseException as error:
        with suppress(OSError):  # such as of a full disk, which may be what the error is about
            log.write("error", f"{type(error).__name__}: {error}")
        raise
    finally:
        logger.removeHandler(handler)


def read_events(path: Path) -> list[Event]:
    """Read the file, without a torn last line; no events if it is absent. Raises DataError if it is broken."""
    events = []
    for number, row in enumerate(read_jsonl(path), start=1):
        if missing := [name for name in Event.__slots__ if name not in row and name != "details"]:
            raise DataError(f"{path}, line {number}: no key {missing[0]!r}")
        events.append(Event(**{name: row[name] for name in Event.__slots__ if name in row}))
    return events
