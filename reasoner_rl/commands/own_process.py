"""Calling a function in a process of its own, which stops and fails as if it were called here."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TypeVar, TypeVarTuple

from reasoner_rl.errors import UserError, WorkerError

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")
STOPPING = (signal.SIGINT, signal.SIGTERM)


def in_own_process(function: Callable[[*Arguments], R], *arguments: *Arguments) -> R:
    """Return ``function(*arguments)``, or raise what it raises, after the process that ran it has ended.

    function: of a module, since the process imports it. Ctrl-C and SIGTERM are passed on to it, which decides what they
    mean. To be called in the main thread. Raises WorkerError if the process dies, such as for want of memory.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(theirs, function, arguments))
    with _passing_signals_on(process) as received:
        theirs.close()
        try:
            value, error = ours.recv()
        except EOFError:
            value, error = None, None
        process.join()
    if error is not None:
        raise error
    if process.exitcode != 0 and received:  # it died of the signal, and so does this process
        signal.raise_signal(received[0])
    if process.exitcode != 0:
        raise WorkerError(f"the process that ran {function.__name__} died with status {process.exitcode}")
    return value


@contextmanager
def _passing_signals_on(process: BaseProcess) -> Iterator[list[int]]:
    """Start the process, and send it the signals to stop that come during the block; yields a list of them."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)  # type: ignore[arg-type]

    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the process begins with them blocked
    try:
        process.start()
        previous = {number: signal.signal(number, pass_on) for number in STOPPING}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _answer(
    connection: Connection, function: Callable[[*Arguments], R], arguments: tuple[*Arguments]
) -> None:
    """In the new process: call the function and send back its value or its error."""
    os.setsid()  # a terminal's Ctrl-C goes to the parent alone, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    value, error = None, None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        value = function(*arguments)
    except BaseException as raised:
        error = _portable(raised)
    connection.send((value, error))


def _end_with_parent() -> None:
    """Stop when the parent has been killed, rather than keep the device."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _portable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, or one with the same text if it cannot be sent to another process."""
    text = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = (UserError if isinstance(error, UserError) else RuntimeError)(str(error))
    error.add_note(f"In a process of its own:\n{text}")
    return error
