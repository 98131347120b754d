"""Calling a function in a process of its own, which stops and fails as if it were called here."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TypeVar, TypeVarTuple, cast

from reasoner_rl.errors import UserError, WorkerError, is_interruption
from reasoner_rl.trainer.stop import STOPPING, handling_signals

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


def in_own_process(what: str, function: Callable[[*Arguments], R], *arguments: *Arguments) -> R:
    """Return ``function(*arguments)``, or raise what it raises, after the process that ran it has ended.

    what: the work, for messages. function: of a module, since the process imports it; it, its arguments and its value
    are pickled. Ctrl-C and SIGTERM are passed on to it, which decides what they mean. To be called in the main thread.
    Raises WorkerError if the process dies before it answers, such as for want of memory.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(theirs, function, arguments))
    answer: tuple[R | None, BaseException | None] | None = None
    with _passing_signals_on(process) as received:
        theirs.close()
        with suppress(EOFError, OSError):  # it died, or died while it answered
            answer = ours.recv()
        process.join()
    if answer is None:
        if received:  # it died of the signal, and so does this process
            signal.raise_signal(received[0])
        raise WorkerError(f"the process for {what} {_how_it_ended(process)}")
    value, error = answer
    if error is not None:
        raise error
    return cast(R, value)  # whatever libraries did to the process after the answer


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with exit status {code} and without an answer"
    told = f"was killed by {signal.Signals(-code).name}"
    return f"{told}, perhaps for want of host memory" if -code == signal.SIGKILL else told


@contextmanager
def _passing_signals_on(process: BaseProcess) -> Iterator[list[int]]:
    """Start the process, and send it the signals to stop that come during the block; yields a list of them."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            os.kill(cast(int, process.pid), number)

    resource_tracker.ensure_running()  # which unblocks these signals when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the process begins with them blocked
    try:
        with handling_signals(pass_on):
            process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield received
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _answer(
    connection: Connection, function: Callable[[*Arguments], R], arguments: tuple[*Arguments]
) -> None:
    """In the new process: call the function and send back its value or its error."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C goes to the parent's group alone, and the parent passes it on
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
    """The error with its traceback as a note, or one with the same text if it cannot be sent to another process.

    Errors lose their causes on the way, so one that comes of an interruption is sent as an interruption.
    """
    text = "".join(traceback.format_exception(error))
    if is_interruption(error):
        error = KeyboardInterrupt()
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        kinds = (UserError, WorkerError, FloatingPointError, OSError)
        error = next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)(str(error))
    error.add_note(f"In a process of its own:\n{text}")
    return error
