"""Scores responses in processes that can be killed, so that no verifier can stop a run.

The processes are started as fresh interpreters and not by multiprocessing, whose children import the main
script again and with it torch. Each leads its own process group: Ctrl-C in the terminal does not reach it,
and killing the group takes along whatever a verifier started. When this process dies, however it dies, they
notice and end.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Self

from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.contract import FunctionResult
from reasoner_rl.rewards.metrics import RESERVED_NAMES
from reasoner_rl.rewards.shaping import combine, failed_result
from reasoner_rl.types import Reward

logger = logging.getLogger(__name__)

START_SECONDS = 120.0  # most time that loading the reward functions may take
MAX_CHUNK = 16  # answers sent at once; more would leave other workers idle at the end

_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from reasoner_rl.rewards.worker import main
main(int(sys.argv[1]))
"""


@dataclass(frozen=True, slots=True)
class RewardTask:
    """One response to be scored."""

    data_source: str
    response: str  # what the verifiers read
    ground_truth: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    response_tokens: int = 0
    truncated: bool = False  # cut off at the token limit


class RewardRunner:
    """A pool of verifier processes. Close it, or use it as a context manager.

    Raises ConfigError at once if a function cannot be loaded.
    """

    def __init__(self, config: RewardConfig, max_response_tokens: int) -> None:
        _refuse_reserved_names(config.functions)
        self._config = config
        self._max_response_tokens = max_response_tokens
        self._warned: set[tuple[str, str]] = set()
        self._workers: list[_Worker] = []
        try:
            for _ in range(config.workers):
                self._workers.append(_Worker(config.functions))
            nothing = _Batch((), len(config.functions))
            while not all(worker.ready for worker in self._workers):
                self._advance(nothing)
        except BaseException:
            self.close()
            raise

    def limited_to(self, max_response_tokens: int) -> RewardRunner:
        """The same processes, for responses of another greatest length; closed together with this one."""
        other = copy.copy(self)
        other._max_response_tokens = max_response_tokens
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the verifier processes."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def score(
        self, tasks: Sequence[RewardTask], progress: Callable[[int], None] | None = None
    ) -> list[Reward]:
        """Return one Reward a task, in order. ``progress`` is told how many more tasks are finished.

        A function that exceeds the deadline, ends its process or raises gives the reward the status "timeout"
        or "crash", and counts as `failed_result` says. Raises RuntimeError after `close`.
        """
        if not self._workers:
            raise RuntimeError("the reward runner is closed")
        batch = _Batch(tasks, len(self._config.functions))
        try:
            while batch.unfinished:
                before = batch.unfinished
                self._advance(batch)
                if progress is not None and batch.unfinished < before:
                    progress(before - batch.unfinished)
        except BaseException:
            # What busy workers still send belongs to this batch and must not reach the next.
            for worker in [worker for worker in self._workers if worker.busy]:
                self._replace(worker)
            raise
        return [self._reward(task, results) for task, results in zip(tasks, batch.results, strict=True)]

    def _advance(self, batch: _Batch) -> None:
        """Hand out answers, wait for something to happen, and take note of it."""
        for worker in list(self._workers):
            if batch.waiting and not worker.busy:
                if worker.connection.poll():  # an idle process says nothing: it has died since
                    self._replace(worker)
                else:
                    chunk = batch.take_chunk(len(self._workers))
                    worker.assign(chunk, batch.tasks, self._config.timeout_seconds)
        busy = [worker for worker in self._workers if worker.busy]
        patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        heard = wait([worker.connection for worker in busy], patience)
        for worker in busy:
            if worker.connection in heard:
                self._listen(worker, batch)
            elif time.monotonic() >= worker.deadline and not worker.connection.poll():
                self._overdue(worker, batch)

    def _listen(self, worker: _Worker, batch: _Batch) -> None:
        try:
            if not worker.ready:
                worker.finish_start()
            while worker.assigned and worker.connection.poll():
                self._record(worker, batch, *worker.connection.recv())
        except (EOFError, OSError):
            ending = worker.kill()
            if not worker.ready:
                raise ConfigError(f"loading the reward functions ended their process ({ending})") from None
            self._give_up(worker, batch, "crash", f"ended its process ({ending})")

    def _record(self, worker: _Worker, batch: _Batch, verdict: FunctionResult | str, seconds: float) -> None:
        """Take a verdict, unless it came too late: the process says so, however late we listen to it."""
        index, timeout = worker.assigned[0], self._config.timeout_seconds
        function = self._config.functions[len(batch.results[index])]
        if seconds > timeout:
            self._warn(function, "timeout", f"took longer than {timeout:g} s", kind="timeout")
            verdict = failed_result("timeout", function)
        elif isinstance(verdict, str):
            self._warn(function, "crash", f"raised {verdict}", kind=verdict.split(":")[0])
            verdict = failed_result("crash", function)
        if batch.add(index, verdict):
            worker.assigned.popleft()
            worker.deadline = time.monotonic() + timeout

    def _overdue(self, worker: _Worker, batch: _Batch) -> None:
        if not worker.ready:
            worker.kill()
            raise ConfigError(f"loading the reward functions took longer than {START_SECONDS:g} s")
        self._give_up(worker, batch, "timeout", f"took longer than {self._config.timeout_seconds:g} s")

    def _give_up(self, worker: _Worker, batch: _Batch, status: str, reason: str) -> None:
        """Kill a worker; the answer it was at has failed, the others that it held go back to the queue."""
        index = worker.assigned.popleft()
        missing = self._config.functions[len(batch.results[index]) :]
        self._warn(missing[0], status, reason, kind=status)
        for function in missing:
            batch.add(index, failed_result(status, function))
        batch.waiting.extendleft(reversed(worker.assigned))
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """Kill a worker and start another; nobody waits for it, for the others must be kept to their deadlines."""
        worker.kill()
        self._workers[self._workers.index(worker)] = _Worker(self._config.functions)

    def _reward(self, task: RewardTask, results: Sequence[FunctionResult]) -> Reward:
        return combine(
            results,
            self._config.functions,
            self._config.overlong,
            response_tokens=task.response_tokens,
            max_response_tokens=self._max_response_tokens,
            truncated=task.truncated,
        )

    def _warn(self, function: RewardFunctionConfig, status: str, reason: str, kind: str) -> None:
        """Log a function's failure, once a kind."""
        if (function.label, kind) not in self._warned:
            self._warned.add((function.label, kind))
            logger.warning(
                "reward function %r %s; it counts as wrong. Further cases are only counted, in %s.",
                function.label,
                reason,
                {"timeout": "reward/timeouts", "crash": "reward/crashes"}[status],
            )


class _Batch:
    """The answers of one call and what is known of them."""

    def __init__(self, tasks: Sequence[RewardTask], functions: int) -> None:
        self.tasks = tasks
        self.results: list[list[FunctionResult]] = [[] for _ in tasks]  # grows to one result a function
        self.waiting = deque(range(len(tasks)))  # indices that no worker holds
        self.unfinished = len(tasks)
        self._functions = functions

    def take_chunk(self, workers: int) -> deque[int]:
        """Take the next few answers off the queue, fewer towards the end."""
        size = min(max(1, len(self.waiting) // (2 * workers)), MAX_CHUNK)
        return deque(self.waiting.popleft() for _ in range(size))

    def add(self, index: int, result: FunctionResult) -> bool:
        """Append the next function's result; return whether the answer is finished."""
        self.results[index].append(result)
        finished = len(self.results[index]) == self._functions
        self.unfinished -= finished
        return finished


class _Worker:
    """One verifier process and the answers that it holds."""

    def __init__(self, functions: Sequence[RewardFunctionConfig]) -> None:
        self.assigned: deque[int] = deque()  # indices; the process is at the first
        self.ready = False  # the functions are loaded
        self.deadline = time.monotonic() + START_SECONDS  # for loading them, then for the first answer
        self.connection: Connection[Any, Any]
        self.connection, theirs = Pipe()
        command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)]
        try:
            # Standard output goes to standard error: what functions print is no output of the command.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        finally:
            theirs.close()
        with suppress(OSError):  # if it is dead already, the wait tells
            self.connection.send([(function.fn, function.parameters) for function in functions])

    @property
    def busy(self) -> bool:
        """Whether something is to be heard of it: that it has started, or a verdict."""
        return bool(self.assigned) or not self.ready

    def finish_start(self) -> None:
        """Note that the functions are loaded. Raises ConfigError with the reason if they are not."""
        problem = self.connection.recv()
        if problem is not None:
            raise ConfigError(problem)
        self.ready = True

    def assign(self, indices: deque[int], tasks: Sequence[RewardTask], timeout: float) -> None:
        """Send answers; the process must be ready and hold none."""
        answers = [
            (task.data_source, task.response, task.ground_truth, dict(task.extra_info))
            for task in (tasks[index] for index in indices)
        ]
        self.assigned = indices
        with suppress(BrokenPipeError, ConnectionResetError):  # dead; noticed when it is listened to
            self.connection.send(answers)
        self.deadline = time.monotonic() + timeout

    def kill(self) -> str:
        """End the process and all it started; return how it ended, for people."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
        code = self._process.returncode
        return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _refuse_reserved_names(functions: Sequence[RewardFunctionConfig]) -> None:
    for function in functions:
        if function.label in RESERVED_NAMES:
            raise ConfigError(
                f"reward.functions: {function.label!r} is the name of a metric; "
                f"give {function.fn!r} another `name`"
            )
