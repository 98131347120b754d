"""The answers of one call of the runner: what is to be judged by which function, and what is known."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reasoner_rl.rewards.contract import OPENED_TAG, RESPONSE_TOKENS, Answer, FunctionResult

MAX_CHUNK = 16  # jobs sent at once; more would leave other workers idle at the end


@dataclass(frozen=True, slots=True)
class RewardTask:
    """One response to be scored."""

    data_source: str
    response: str  # what the verifiers read
    ground_truth: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    response_tokens: int = 0  # functions find it in extra_info, unless the row has a key of that name
    truncated: bool = False  # cut off at the token limit
    group: int | None = None  # equal for responses to one prompt, whose scores bound that of a failure
    opened_tag: str = ""  # with which the prompt ends; passed to functions too


def answer_of(task: RewardTask) -> Answer:
    """What a function is given for a task; extra_info holds the response's length and the opened tag where known."""
    counted = {RESPONSE_TOKENS: task.response_tokens} if task.response_tokens else {}
    opened = {OPENED_TAG: task.opened_tag} if task.opened_tag else {}
    extra_info = {**counted, **opened, **task.extra_info}
    return Answer(task.data_source, task.response, task.ground_truth, extra_info)


class Job(NamedTuple):
    """One call of one function."""

    function: int  # its place in reward.functions
    answers: tuple[int, ...]  # numbers of one answer, or of several if the function takes batches


class Batch:
    """Tasks, the answers that they come down to, and the results so far.

    Args:
        batched: which functions take batches.
        batch_size: most answers in one call of such a function.
        workers: how many processes will share the work.
        deduplicate: judge answers once that are alike in everything a function is given.
    """

    def __init__(
        self,
        tasks: Sequence[RewardTask],
        batched: Sequence[bool],
        *,
        batch_size: int,
        workers: int,
        deduplicate: bool,
    ) -> None:
        self.answers: list[Answer] = []
        self.of_task: list[int] = []  # the number of each task's answer
        self._gather(tasks, deduplicate)
        self.results: list[list[FunctionResult | None]] = [[None] * len(batched) for _ in self.answers]
        self.seconds = [0.0] * len(self.answers)  # that all functions together took
        self.finished = 0  # tasks
        self._missing = [len(batched)] * len(self.answers)  # functions that have not judged an answer
        self._copies = [0] * len(self.answers)
        for number in self.of_task:
            self._copies[number] += 1
        # Batches first: they take longest. An answer's other functions follow each other, and its text is sent once.
        size = min(batch_size, max(1, -(-len(self.answers) // workers)))
        numbers = range(len(self.answers))
        starts = numbers[::size]
        singly = [function for function, whole in enumerate(batched) if not whole]
        self.waiting: deque[Job] = deque(  # jobs that no worker holds
            Job(function, tuple(numbers[start : start + size]))
            for function, whole in enumerate(batched)
            if whole
            for start in starts
        )
        self.waiting.extend(Job(function, (number,)) for number in numbers for function in singly)

    def _gather(self, tasks: Sequence[RewardTask], deduplicate: bool) -> None:
        known: dict[object, int] = {}
        for task in tasks:
            answer = answer_of(task)
            # Two that pickle alike are alike, whatever extra_info holds; two that are alike and do not are
            # judged twice.
            key = (*answer[:3], pickle.dumps(answer.extra_info)) if deduplicate else len(known)
            number = known.setdefault(key, len(known))
            if number == len(self.answers):
                self.answers.append(answer)
            self.of_task.append(number)

    @property
    def unfinished(self) -> int:
        """Tasks that lack a result."""
        return len(self.of_task) - self.finished

    def take_chunk(self, workers: int) -> deque[Job]:
        """Take the next few jobs off the queue, fewer towards the end; one alone if it has several answers."""
        size = min(max(1, len(self.waiting) // (2 * workers)), MAX_CHUNK)
        chunk = deque([self.waiting.popleft()])
        while len(chunk) < size and max(len(chunk[-1].answers), len(self.waiting[0].answers)) == 1:
            chunk.append(self.waiting.popleft())
        return chunk

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Jobs to be done next, in their order."""
        self.waiting.extendleft(reversed(list(jobs)))

    def add(self, number: int, function: int, result: FunctionResult, seconds: float) -> None:
        """Take note of what a function made of an answer."""
        self.results[number][function] = result
        self.seconds[number] += seconds
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self.finished += self._copies[number]
