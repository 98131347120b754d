"""Stopping a run by Ctrl-C or SIGTERM without losing a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from reasoner_rl.observability.messages import say


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM: the loop finishes its step, saves and leaves."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """StepOutput the first Ctrl-C or SIGTERM into a request; a second one interrupts at once."""
    stop = StopRequest()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        say("stopping after this step, with a checkpoint; once more to stop at once")

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
