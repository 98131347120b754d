"""Stopping a run by Ctrl-C or SIGTERM without losing a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from reasoner_rl.observability.messages import say

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling_signals(
    handler: Callable[[int, FrameType | None], None], numbers: Sequence[int] = STOPPING
) -> Iterator[None]:
    """Call ``handler`` for these signals while the block runs.

    In another thread than the main one, which alone may do that, signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM: the loop finishes its step, saves and leaves."""

    def __init__(self) -> None:
        self.requested = False
        self.interrupted = False  # by a second one

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def graceful_stop(stop: StopRequest | None = None) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one interrupts at once.

    stop: the request that is yielded, where it outlasts the block; a new one if unset.

    Whatever error the block ends in after that is raised as KeyboardInterrupt. An interrupted write ends in an error of
    PyTorch's, which passes from rank to rank without its cause.
    """
    if stop is None:
        stop = StopRequest()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            stop.interrupted = True
            raise KeyboardInterrupt
        stop.requested = True
        with suppress(OSError):  # whatever reads the output may have been stopped too
            say("stopping after this step, with a checkpoint; once more to stop at once")

    with handling_signals(request):
        try:
            yield stop
        except BaseException as error:
            if stop.interrupted and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
