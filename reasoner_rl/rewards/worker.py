"""The verifier process. Imports no torch, so that it starts, and is replaced, in a fraction of a second.

It reads from its connection, in order: a Setup, then lists of calls, or a sample for a dry run. It writes what
it loaded (or the reason why it could not), then an Outcome a call, in order; for a dry run it writes a
FunctionResult, or what is wrong, a function.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from reasoner_rl.errors import ConfigError
from reasoner_rl.plugins import describe
from reasoner_rl.rewards.contract import Answer, FunctionResult, FunctionSpec, ReturnError
from reasoner_rl.rewards.loading import LoadedFunction, check_function, load

CONNECTION_LOST = 233  # exit status of a process in which a function has closed the connection

Call = tuple[int, list[Answer]]  # which function, and one answer, or several if it takes batches


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process is sent when it starts."""

    functions: tuple[FunctionSpec, ...]
    memory_bytes: int | None  # most that it may have for itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call."""

    kind: Literal["results", "failed", "memory"]  # memory: the limit was reached, end this process
    results: list[FunctionResult]  # one per answer, if there are results
    reason: str  # what it did instead: raised ..., returned ...
    seconds: float  # without sending, which waits for the other side


def main(descriptor: int) -> None:
    """Serve a connection until the other side closes it. The process must lead its own process group."""
    connection: Connection[Any, Any] = Connection(descriptor)
    identity = _identity(descriptor)
    try:
        _serve(connection, identity)
    except (OSError, EOFError):
        _end(descriptor, identity)


def _identity(descriptor: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _end(descriptor: int, identity: tuple[int, int] | None) -> None:
    """End the process, because nothing more can be received or sent.

    Either a function has closed the connection, which the exit status reports to the other side; or the other side has
    died, and nothing else ends the processes that the functions started: the whole process group is killed.
    """
    if _identity(descriptor) != identity:
        os._exit(CONNECTION_LOST)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _serve(connection: Connection[Any, Any], identity: tuple[int, int] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = connection.fileno()
    os.set_inheritable(descriptor, False)
    functions = _load(connection, connection.recv())
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, identity, inbox), daemon=True).start()
    own = os.getpid()
    while True:
        message = inbox.get()
        work = _dry_run(functions, message) if isinstance(message, Answer) else _judge(functions, message)
        for outcome in work:
            if os.getpid() != own:
                os._exit(0)  # a copy that a function made with fork and let return: only one may answer
            connection.send(outcome)


def _load(connection: Connection[Any, Any], setup: Setup) -> list[LoadedFunction]:
    try:
        if setup.memory_bytes is not None:
            _limit_memory(setup.memory_bytes)
        functions = [load(spec) for spec in setup.functions]
    except BaseException as error:
        connection.send(str(error) if isinstance(error, ConfigError) else describe(error))
        raise SystemExit(1) from None
    connection.send(tuple(function.batch for function in functions))
    return functions


def _limit_memory(most: int) -> None:
    """Let allocations beyond ``most`` bytes fail.

    RLIMIT_DATA counts what a process can write to and shares with nobody. Unlike RLIMIT_AS it leaves out what is
    only mapped or reserved (libraries, files, CUDA's address space), and unlike polling from outside it is never
    too late: a huge allocation fails at once, before the machine's memory is used up.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _judge(functions: list[LoadedFunction], calls: list[Call]) -> Any:
    for index, answers in calls:
        begun = time.monotonic()
        kind: Literal["results", "failed", "memory"] = "results"
        results: list[FunctionResult] = []
        reason = ""
        try:
            results = functions[index].judge(answers)
        except BaseException as error:  # SystemExit too: sys.exit ends the answer, not the process
            kind = "memory" if isinstance(error, MemoryError) else "failed"
            reason = str(error) if isinstance(error, ReturnError) else f"raised {describe(error)}"
        yield Outcome(kind, results, reason, time.monotonic() - begun)


def _dry_run(functions: list[LoadedFunction], sample: Answer) -> Any:
    for function in functions:
        try:
            yield check_function(function, sample)
        except ConfigError as error:
            yield str(error)


def _receive(
    connection: Connection[Any, Any], identity: tuple[int, int] | None, inbox: queue.SimpleQueue[Any]
) -> None:
    """Pass calls on, in a thread of its own: a parent's death is noticed while a function runs."""
    try:
        while True:
            inbox.put(connection.recv())
    finally:
        _end(connection.fileno(), identity)
