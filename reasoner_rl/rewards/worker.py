"""The verifier process. Imports no torch, so that it starts, and is replaced, in a fraction of a second.

It reads from its connection, in order: the functions as (fn, parameters) pairs, then lists of answers. It
writes None when the functions are loaded (or the reason why not), then for every answer and function, in
order, a FunctionResult, or the text of the exception that the function raised, with the seconds that the
answer has taken so far.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from reasoner_rl.rewards.contract import FunctionResult, RewardFunction, call
from reasoner_rl.rewards.loading import describe, load_function

FunctionSpec = tuple[str, dict[str, Any]]  # fn, parameters
Answer = tuple[str, str, str, dict[str, Any]]  # data source, response, ground truth, extra info


def main(descriptor: int) -> None:
    """Serve a connection until the other side closes it. The process must lead its own process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    connection: Connection[Any, Any] = Connection(descriptor)
    functions = _load(connection, connection.recv())
    inbox: queue.SimpleQueue[list[Answer]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    while True:
        for answer in inbox.get():
            seconds = 0.0  # without sending, which waits for the other side
            for function, parameters in functions:
                begun = time.monotonic()
                verdict = _judge(function, parameters, answer)
                seconds += time.monotonic() - begun
                connection.send((verdict, seconds))


def _load(
    connection: Connection[Any, Any], specs: list[FunctionSpec]
) -> list[tuple[RewardFunction, dict[str, Any]]]:
    try:
        functions = [(load_function(fn), parameters) for fn, parameters in specs]
    except BaseException as error:
        connection.send(str(error) or type(error).__name__)
        raise SystemExit(1) from None
    connection.send(None)
    return functions


def _judge(function: RewardFunction, parameters: dict[str, Any], answer: Answer) -> FunctionResult | str:
    try:
        return call(function, parameters, *answer)
    except (
        BaseException
    ) as error:  # SystemExit too: a function that calls sys.exit ends its answer, not the worker
        return describe(error)


def _receive(connection: Connection[Any, Any], inbox: queue.SimpleQueue[list[Answer]]) -> None:
    """Pass answers on, in a thread of its own: a parent's death is noticed while a function runs."""
    try:
        while True:
            inbox.put(connection.recv())
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)  # with whatever processes the functions started
