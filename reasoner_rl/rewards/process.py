"""The parent's side of one verifier process.

It is started as a fresh interpreter and not by multiprocessing, whose children import the main script again and
with it torch. It leads its own process group: Ctrl-C in the terminal does not reach it, and killing the group
also kills whatever a verifier started. If the parent dies, in whatever way, the process notices it and ends.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.contract import Answer, FunctionResult, FunctionSpec
from reasoner_rl.rewards.loading import MADE_UP_SAMPLE
from reasoner_rl.rewards.queueing import Job
from reasoner_rl.rewards.worker import CONNECTION_LOST, Setup

START_SECONDS = 120.0  # most time that loading the reward functions may take
STALL_SECONDS = 5.0  # most time that a message may stand still halfway; less if an answer has less time
# A longer length is not that of a message: it is made of text that a function wrote into the socket.
MAX_MESSAGE_BYTES = 1 << 26
GIB = 2**30
ENDING_SECONDS = 1.0  # most time that a process whose connection is closed has to end by itself
FOREIGN = "wrote to a file descriptor that is not its own, or closed one"

_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from reasoner_rl.rewards.worker import main
main(int(sys.argv[1]))
"""


class VerifierProcess:
    """One process and the jobs that it holds."""

    def __init__(self, config: RewardConfig) -> None:
        self.assigned: deque[Job] = deque()  # the process is at the first
        self.batched: tuple[bool, ...] | None = (
            None  # which functions take batches; known when they are loaded
        )
        self._unreadable = False  # whether it sent what is no message
        self.judged = 0  # answers, also if several functions judged them
        self.begun = time.monotonic()  # loading the functions, then the first job
        self.patience = START_SECONDS
        self.connection, self._process = _start(config.timeout_seconds)
        setup = Setup(
            tuple(FunctionSpec(f.fn, f.parameters, f.batch) for f in config.every_function),
            None if config.memory_gib is None else int(config.memory_gib * GIB),
        )
        self._send(setup)

    @property
    def ready(self) -> bool:
        """Whether the functions are loaded."""
        return self.batched is not None

    @property
    def busy(self) -> bool:
        """Whether something is to be heard of it: that it has started, or a verdict."""
        return bool(self.assigned) or not self.ready

    @property
    def deadline(self) -> float:
        """When it must have been heard of, by `time.monotonic`."""
        return self.begun + self.patience

    def finish_start(self) -> None:
        """Take note of how loading the functions went. Raises ConfigError if they cannot be used."""
        said = self.receive()
        if isinstance(said, str):
            raise ConfigError(said)
        self.batched = said

    def assign(
        self, jobs: deque[Job], answers: Sequence[Answer], timeout: float, first_function: int = 0
    ) -> None:
        """Send jobs; the process must be ready and hold none. ``answers`` is what the jobs' numbers refer to.

        first_function: which of the process's functions the jobs call number 0.
        """
        self.assigned = jobs
        self._send(
            [(first_function + job.function, [answers[index] for index in job.answers]) for job in jobs]
        )
        self.begun, self.patience = time.monotonic(), timeout

    def finish_job(self) -> Job:
        """Take note that the process is at the next of its jobs."""
        job = self.assigned.popleft()
        self.judged += len(job.answers)
        self.begun = time.monotonic()
        return job

    def receive(self) -> Any:
        """The next message. Raises EOFError if there will be none that can be read."""
        try:
            message = self.connection.recv_bytes(MAX_MESSAGE_BYTES)
        except Exception as error:  # closed, stopped halfway, or written to by the function itself
            ended = isinstance(error, EOFError | ConnectionError) or "end of file" in str(error)
            self._unreadable = not ended
            raise EOFError from error
        try:
            return pickle.loads(message)
        except Exception as error:
            self._unreadable = True
            raise EOFError from error

    def dry_run(self, config: RewardConfig, sample: Answer) -> list[FunctionResult]:
        """Let every function judge a sample; returns what those of training say. Raises ConfigError."""
        if not self.connection.poll(START_SECONDS):
            raise loading_took_too_long()
        try:
            self.finish_start()
        except EOFError:
            raise loading_ended(self.kill()) from None
        self._send(sample)
        results = []
        for function in config.every_function:
            seconds = 2 * config.timeout_seconds  # it is called twice
            problem = f"reward function {function.fn!r}"
            if not self.connection.poll(seconds):
                raise ConfigError(
                    f"{problem} took longer than twice reward.timeout_seconds={config.timeout_seconds:g} "
                    "on two test calls"
                )
            try:
                said = self.receive()
            except EOFError:
                raise ConfigError(f"{problem} {self.failure(' on a test call')}") from None
            if isinstance(said, str):
                raise ConfigError(said)
            results.append(said)
        return results[: len(config.functions)]

    def failure(self, when: str = "") -> str:
        """End the process after `receive` has failed; return what the function did, for people."""
        end = time.monotonic() + ENDING_SECONDS
        while not self._unreadable and not self._has_ended():
            self._unreadable = time.monotonic() > end  # it is running, but its connection is closed
            time.sleep(0.002)
        ending = self.kill()
        if self._unreadable or self._process.returncode == CONNECTION_LOST:
            return FOREIGN + when
        return f"ended its process{when} ({ending})"

    def _has_ended(self) -> bool:
        """Whether the process has ended; its group can be killed all the same, since it is not waited for."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> str:
        """End the process and all it started; return how it ended, for people."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
        code = self._process.returncode
        return f"exit status {code}" if code >= 0 else f"signal {-code}"

    def _send(self, message: object) -> None:
        with suppress(OSError):  # dead or stopped; noticed when it is listened to
            self.connection.send(message)


def dry_run(config: RewardConfig, sample: Answer = MADE_UP_SAMPLE) -> list[FunctionResult]:
    """Call every reward function on ``sample``, and on it with an empty response, in a process of their own.

    Raises ConfigError naming the function and what is wrong: it cannot be loaded, has another signature, raises,
    returns something else, ends its process, writes to this module's connection, or takes too long.
    """
    process = VerifierProcess(config)
    try:
        return process.dry_run(config, sample)
    finally:
        process.kill()


def loading_took_too_long() -> ConfigError:
    """The error for a process that does not come to its first answer."""
    return ConfigError(f"loading the reward functions took longer than {START_SECONDS:g} s")


def loading_ended(ending: str) -> ConfigError:
    """The error for a process that ended before its first answer."""
    return ConfigError(f"loading the reward functions ended their process ({ending})")


def _start(timeout: float) -> tuple[Connection[Any, Any], subprocess.Popen[bytes]]:
    ours, theirs = Pipe()
    _never_wait_for_ever(ours, timeout)
    command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)]
    try:
        # Standard output goes to standard error: what functions print is no output of the command.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()], start_new_session=True
        )
    finally:
        theirs.close()
    return ours, process


def _never_wait_for_ever(connection: Connection[Any, Any], timeout: float) -> None:
    """Let sending and receiving fail when nothing moves: the other side may be stopped in the middle of a message.

    Or a function has written something into the connection that only begins like a message: its answer then fails
    after ``timeout`` seconds at the most, like any answer that takes too long.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(STALL_SECONDS))
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(min(STALL_SECONDS, timeout)))


def _timeval(seconds: float) -> bytes:
    """C's struct timeval; at least a microsecond, since zero would mean no limit."""
    return struct.pack("ll", *divmod(max(1, int(seconds * 1e6)), 1_000_000))
