"""Scores responses in processes that can be killed, so that no verifier can stop a run."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rewards.contract import FunctionResult
from reasoner_rl.rewards.metrics import RESERVED_NAMES
from reasoner_rl.rewards.process import VerifierProcess, loading_ended, loading_took_too_long
from reasoner_rl.rewards.queueing import Batch, Job, RewardTask
from reasoner_rl.rewards.second_opinion import is_chosen, opinion_of
from reasoner_rl.rewards.shaping import combine, failed_result, settle_failures
from reasoner_rl.rewards.worker import Outcome
from reasoner_rl.types import Reward

__all__ = ["RewardRunner", "RewardTask"]

logger = logging.getLogger(__name__)


class RewardRunner:
    """A pool of verifier processes. Close it, or use it as a context manager.

    It may be used from any thread; calls from several follow one another. Raises ConfigError at once if a
    function cannot be loaded.
    """

    def __init__(self, config: RewardConfig, max_response_tokens: int) -> None:
        _refuse_reserved_names(config.functions)
        self._config = config
        self._functions = config.functions
        self._first = 0  # which of a process's functions is the first of these
        self._max_response_tokens = max_response_tokens
        self._warned: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._second: RewardRunner | None = None  # for `reward.second_opinion`
        self._workers: list[VerifierProcess] = []
        self._batched: tuple[bool, ...] = ()  # which functions take batches
        try:
            for _ in range(config.workers):
                self._workers.append(VerifierProcess(config))
            nothing = self._batch(())
            while not all(worker.ready for worker in self._workers):
                self._advance(nothing)
            self._batched = (self._workers[0].batched or ())[: len(config.functions)]
            if (second := config.of_second_opinion) is not None:
                self._second = RewardRunner(second, max_response_tokens)
        except BaseException:
            self.close()
            raise

    def for_evaluation(self, max_response_tokens: int) -> RewardRunner:
        """The same processes, for responses of another greatest length, with the functions' parameters for evaluation.

        Closed together with this one. No second opinion is asked for.
        """
        other = copy.copy(self)
        other._second = None
        other._max_response_tokens = max_response_tokens
        other._functions = self._config.for_evaluation().functions
        other._first = len(self._config.every_function) - len(other._functions)
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
        if self._second is not None:
            self._second.close()

    def score(
        self, tasks: Sequence[RewardTask], progress: Callable[[int], None] | None = None
    ) -> list[Reward]:
        """Return one Reward per task, in order. ``progress`` is called with how many more tasks are finished.

        A function that exceeds the deadline, ends its process, needs too much memory or raises gives the reward
        the status "timeout" or "crash", and counts as `failed_result` and `settle_failures` say. When a function that
        takes batches fails in another way than by its deadline, the batch's answers are judged again one by one, and
        only those that fail alone have failed. Raises RuntimeError after `close`.
        """
        with self._lock:
            if not self._workers:
                raise RuntimeError("the reward runner is closed")
            batch = self._batch(tasks)
            try:
                while batch.unfinished:
                    before = batch.finished
                    self._advance(batch)
                    if progress is not None and batch.finished > before:
                        progress(batch.finished - before)
            except BaseException:
                # What busy workers still send belongs to this batch and must not reach the next.
                for worker in [worker for worker in self._workers if worker.busy]:
                    self._replace(worker)
                raise
        judged = [[one for one in batch.results[number] if one is not None] for number in batch.of_task]
        settled = settle_failures(judged, [task.group for task in tasks], self._functions)
        seconds = [batch.seconds[number] for number in batch.of_task]
        rewards = [self._reward(*parts) for parts in zip(tasks, settled, seconds, strict=True)]
        return self._with_second_opinions(tasks, rewards)

    def _with_second_opinions(self, tasks: Sequence[RewardTask], rewards: list[Reward]) -> list[Reward]:
        """The rewards, of which some have what the second verifier says; no score depends on it."""
        section = self._config.second_opinion
        if self._second is None or section is None:
            return rewards
        chosen = [index for index, task in enumerate(tasks) if is_chosen(task, section.share)]
        for index, second in zip(chosen, self._second.score([tasks[i] for i in chosen]), strict=True):
            rewards[index] = replace(rewards[index], second_opinion=opinion_of(second))
        return rewards

    def _batch(self, tasks: Sequence[RewardTask]) -> Batch:
        return Batch(
            tasks,
            self._batched,
            batch_size=self._config.batch_size,
            workers=len(self._workers),
            deduplicate=self._config.deduplicate,
        )

    def _advance(self, batch: Batch) -> None:
        """Hand out jobs, wait for something to happen, and take note of it."""
        for worker in list(self._workers):
            if batch.waiting and not worker.busy:
                # An idle process sends nothing, so what can be read is the end of its connection.
                if worker.connection.poll():
                    self._replace(worker)
                else:
                    chunk = batch.take_chunk(len(self._workers))
                    worker.assign(chunk, batch.answers, self._config.timeout_seconds, self._first)
        busy = [worker for worker in self._workers if worker.busy]
        patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        heard = wait([worker.connection for worker in busy], patience)
        for worker in busy:
            if worker.connection in heard:
                self._listen(worker, batch)
            elif time.monotonic() >= worker.deadline and not worker.connection.poll():
                self._overdue(worker, batch)

    def _listen(self, worker: VerifierProcess, batch: Batch) -> None:
        try:
            if not worker.ready:
                worker.finish_start()
            while worker.assigned and worker.connection.poll():
                outcome: Outcome = worker.receive()
                if outcome.kind == "memory":  # a process this full would fail the next answers too
                    reason = (
                        f"needed more than reward.memory_gib={self._config.memory_gib}, and {outcome.reason}"
                    )
                    self._give_up(worker, batch, "crash", reason)
                    return
                self._record(worker.finish_job(), batch, outcome)
        except (EOFError, OSError):
            if not worker.ready:
                raise loading_ended(worker.kill()) from None
            self._give_up(worker, batch, "crash", worker.failure())
            return
        if not worker.assigned and worker.judged >= (self._config.recycle_after or math.inf):
            self._replace(worker)

    def _record(self, job: Job, batch: Batch, outcome: Outcome) -> None:
        """Take an outcome, unless it came too late by the process's own clock, however late we read it."""
        timeout = self._config.timeout_seconds
        if outcome.seconds > timeout:
            self._fail(job, batch, "timeout", f"took longer than {timeout:g} s", outcome.seconds)
        elif outcome.kind == "failed":
            self._fail(job, batch, "crash", outcome.reason, outcome.seconds)
        else:
            seconds = outcome.seconds / len(job.answers)
            for number, result in zip(job.answers, outcome.results, strict=True):
                batch.add(number, job.function, result, seconds)

    def _overdue(self, worker: VerifierProcess, batch: Batch) -> None:
        if not worker.ready:
            worker.kill()
            raise loading_took_too_long()
        self._give_up(worker, batch, "timeout", f"took longer than {self._config.timeout_seconds:g} s")

    def _give_up(self, worker: VerifierProcess, batch: Batch, status: str, reason: str) -> None:
        """Kill a worker; the job it was at has failed, the others that it held go back to the queue."""
        job, *rest = worker.assigned
        batch.put_back(rest)
        self._fail(job, batch, status, reason, time.monotonic() - worker.begun)
        self._replace(worker)

    def _fail(self, job: Job, batch: Batch, status: str, reason: str, seconds: float) -> None:
        """Count a job's answers as failed, or have them judged one by one if it may have been only one of them."""
        function = self._functions[job.function]
        if len(job.answers) > 1 and status == "crash":
            batch.put_back(Job(job.function, (number,)) for number in job.answers)
            return
        self._warn(function, status, reason)
        for number in job.answers:
            batch.add(number, job.function, failed_result(status, function), seconds / len(job.answers))

    def _replace(self, worker: VerifierProcess) -> None:
        """Kill a worker and start another without waiting for it: the deadlines of the others must be watched."""
        worker.kill()
        self._workers[self._workers.index(worker)] = VerifierProcess(self._config)

    def _reward(self, task: RewardTask, results: Sequence[FunctionResult], seconds: float) -> Reward:
        return combine(
            results,
            self._functions,
            self._config.overlong,
            response_tokens=task.response_tokens,
            max_response_tokens=self._max_response_tokens,
            truncated=task.truncated,
            seconds=seconds,
        )

    def _warn(self, function: RewardFunctionConfig, status: str, reason: str) -> None:
        """Log a function's failure, once a kind."""
        kind = reason.split(":")[0] if reason.startswith("raised") else reason.split()[0]
        if (function.label, kind) not in self._warned:
            self._warned.add((function.label, kind))
            logger.warning(
                "reward function %r %s; it counts as wrong. Further cases are only counted, in %s.",
                function.label,
                reason,
                {"timeout": "reward/timeouts", "crash": "reward/crashes"}[status],
            )


def _refuse_reserved_names(functions: Sequence[RewardFunctionConfig]) -> None:
    for function in functions:
        if function.label in RESERVED_NAMES:
            raise ConfigError(
                f"reward.functions: {function.label!r} is the name of a metric; "
                f"give {function.fn!r} another `name`"
            )
