"""events.jsonl: what is written when, and that it survives being torn."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from reasoner_rl.observability.events import EventLog, read_events, recorded_events


def test_events_warnings_and_the_error_are_recorded(tmp_path: Path) -> None:
    path, step = tmp_path / "events.jsonl", [0]

    def fail() -> None:
        with recorded_events(path, lambda: step[0]) as events:
            events.write("start", "4 steps")
            step[0] = 2
            logging.getLogger("reasoner_rl.some.module").warning("the file %s is gone", "x")
            logging.getLogger("reasoner_rl.some.module").info("not this")
            logging.getLogger("other").warning("nor this")
            events.write("alarm", "a gap", {"limit": float("nan"), "rows": [1]})
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    logging.getLogger("reasoner_rl").warning("after the block")
    found = [(event.step, event.kind, event.text) for event in read_events(path)]
    assert found == [
        (0, "start", "4 steps"),
        (2, "warning", "the file x is gone"),
        (2, "alarm", "a gap"),
        (2, "error", "ValueError: bad"),
    ]
    assert [event.details for event in read_events(path)] == [None, None, {"limit": None, "rows": [1]}, None]
    assert path.read_text().count("details") == 1
    assert all(event.time.endswith("+00:00") for event in read_events(path))


def test_a_torn_line_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == []
    EventLog(path, lambda: 0).write("start", "a")
    with path.open("a") as file:
        file.write('{"step": 1, "ki')
    assert [event.text for event in read_events(path)] == ["a"]
    EventLog(path, lambda: 3).write("resume", "b")
    assert [(event.step, event.kind, event.text) for event in read_events(path)] == [
        (0, "start", "a"),
        (3, "resume", "b"),
    ]


def test_an_error_is_not_hidden_by_a_disk_that_takes_no_more_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: EventLog, kind: str, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "events.jsonl")

    monkeypatch.setattr(EventLog, "write", full)
    with pytest.raises(ValueError, match="the checkpoint does not fit"), recorded_events(tmp_path / "e", int):
        raise ValueError("the checkpoint does not fit")
