"""Verifier processes on all machines of a Ray cluster: one actor per machine, which has a `RewardRunner` of its own."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import ConfigError, UserError, WorkerError
from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.types import Reward

logger = logging.getLogger(__name__)

_PARTS_PER_MACHINE = 4  # of a batch: fewer would leave machines idle at its end
_AHEAD = 2  # parts that a machine holds, so that it need not wait for the next


class _Messages(logging.Handler):
    """Keeps warnings for the driver, whose log and events they belong into."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _Host:
    """The actor: the verifier processes of one machine."""

    def __init__(self, folder: Path) -> None:
        os.chdir(folder)  # the driver's: functions may be named by relative paths
        self._runner: RewardRunner | None = None
        self._messages = _Messages()
        logging.getLogger("reasoner_rl").addHandler(self._messages)

    def start(self, config: RewardConfig, max_response_tokens: int) -> str | None:
        """Start the processes. Returns a mistake of the user's, if there is one."""
        try:
            self._runner = RewardRunner(config, max_response_tokens)
        except UserError as error:
            return str(error)
        return None

    def score(
        self, tasks: Sequence[RewardTask], evaluation_tokens: int | None
    ) -> tuple[list[Reward], list[str]]:
        """The rewards of tasks, and what the driver is to be warned of."""
        assert self._runner is not None
        runner = self._runner
        if evaluation_tokens is not None:
            runner = runner.for_evaluation(evaluation_tokens)
        rewards = runner.score(tasks)
        said, self._messages.texts = self._messages.texts, []
        return rewards, said

    def close(self) -> None:
        """End the processes."""
        if self._runner is not None:
            self._runner.close()


class SpreadRewards:
    """Implements `Rewards` with the machines of the Ray cluster that this process belongs to.

    ``config.workers`` processes are divided evenly, at least one per machine. Responses to one prompt go to the same
    machine, because failures are settled within their group. Close it. Raises ConfigError if a function cannot be
    loaded.
    """

    def __init__(self, config: RewardConfig, max_response_tokens: int) -> None:
        self._evaluation_tokens: int | None = None
        self._warned: set[str] = set()
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        per_machine = -(-config.workers // len(nodes))
        self._machines = [_start_on(node) for node in nodes]
        share = config.model_copy(update={"workers": per_machine})
        answers = _get([machine.start.remote(share, max_response_tokens) for machine in self._machines])
        if mistakes := [answer for answer in answers if answer is not None]:
            self.close()
            raise ConfigError(mistakes[0])
        self.processes = per_machine * len(nodes)

    def for_evaluation(self, max_response_tokens: int) -> SpreadRewards:
        """See `Rewards.for_evaluation`."""
        other = copy.copy(self)
        other._evaluation_tokens = max_response_tokens
        return other

    def close(self) -> None:
        """End the verifier processes."""
        with contextlib.suppress(RayError):  # Ray may have been stopped, and has taken them along
            if ray.is_initialized():
                ray.get([machine.close.remote() for machine in self._machines], timeout=10.0)
                for machine in self._machines:
                    ray.kill(machine)
        self._machines = []

    def score(
        self, tasks: Sequence[RewardTask], progress: Callable[[int], None] | None = None
    ) -> list[Reward]:
        """See `Rewards.score`. Raises WorkerError if a machine with verifier processes died."""
        if not self._machines:
            raise RuntimeError("the verifier processes were ended")
        rewards: list[Any] = [None] * len(tasks)
        left = deque(parts_of(tasks, _PARTS_PER_MACHINE * len(self._machines)))
        pending: dict[Any, tuple[Any, range]] = {}

        def send(machine: Any) -> None:
            if left:
                part = left.popleft()
                chosen = list(tasks[part.start : part.stop])
                pending[machine.score.remote(chosen, self._evaluation_tokens)] = (machine, part)

        for _ in range(_AHEAD):
            for machine in self._machines:
                send(machine)
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            machine, part = pending.pop(ready)
            rewards[part.start : part.stop], said = _get(ready)
            send(machine)
            for text in said:
                self._warn(text)
            if progress is not None:
                progress(len(part))
        return rewards

    def _warn(self, text: str) -> None:
        if text not in self._warned:  # every machine says it once
            self._warned.add(text)
            logger.warning("%s", text)


def _start_on(node: str) -> Any:
    """An actor on a machine, which reserves nothing there."""
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_Host).options(num_cpus=0, scheduling_strategy=place).remote(Path.cwd())


def _get(references: Any) -> Any:
    try:
        return ray.get(references)
    except RayActorError as error:
        raise WorkerError(f"verifier processes died with their machine or their actor: {error}") from error


def parts_of(tasks: Sequence[RewardTask], parts: int) -> Iterator[range]:
    """Cut tasks into about so many stretches, without cutting a group."""
    size, start, end = max(1, -(-len(tasks) // max(parts, 1))), 0, 0
    for _, members in itertools.groupby(enumerate(tasks), lambda pair: _group_key(*pair)):
        end += sum(1 for _ in members)
        if end - start >= size:
            yield range(start, end)
            start = end
    if start < end:
        yield range(start, end)


def _group_key(number: int, task: RewardTask) -> tuple[str, int]:
    return ("alone", number) if task.group is None else ("group", task.group)
