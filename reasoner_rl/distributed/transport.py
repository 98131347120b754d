"""How the driver calls its workers, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, TypeVarTuple

from reasoner_rl.distributed.worker import Worker
from reasoner_rl.hybrid.streaming import SentWeights
from reasoner_rl.metrics import Metrics

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")
Phase = Literal["start", "generate", "train", "sync", "checkpoint"]  # the keys of cluster.deadlines


@dataclass(frozen=True, slots=True)
class Ticket(Generic[R]):
    """Stands for a call that was begun; R is what it answers."""

    number: int


class Transport(Protocol):
    """Calls methods of `Worker` by rank, counted from 0; an error in a worker ends the run.

    The first ``ranks`` workers hold the models. ``generators`` are the ranks that generate: the same, or others behind
    them. While a `call` is waited for, ``meanwhile`` is called whenever a call that was begun has ended.

    A method is named by reference, as in ``Worker.update``, so that a type checker compares arguments and answers
    on both sides.
    """

    ranks: int
    generators: Sequence[int]
    meanwhile: Callable[[], object] | None

    def call(
        self,
        phase: Phase,
        method: Callable[[Worker, *Arguments], R],
        arguments: Sequence[tuple[*Arguments]],
    ) -> list[R]:
        """Call a method of every worker that holds models, with one tuple of arguments per rank; return the answers.

        Ranks that are given the same tuple object share one message. Raises RuntimeError if a call to these workers
        that was begun has not been waited for.
        """
        ...

    def begin(
        self,
        phase: Phase,
        method: Callable[[Worker, *Arguments], R],
        ranks: Sequence[int],
        arguments: tuple[*Arguments],
    ) -> Ticket[R]:
        """Begin a call to some workers, with the same arguments; return a ticket to wait for."""
        ...

    def send_weights(self, version: int) -> tuple[SentWeights, Metrics]:
        """Copy the policy's weights to where workers that only generate can fetch them; returns what that cost too.

        Returns when they are copied, so that the models can be trained on.
        """
        ...

    def begin_loading(self, ranks: Sequence[int], weights: SentWeights) -> Ticket[Metrics]:
        """Begin to load weights in some of the workers that only generate; they answer what it cost."""
        ...

    def wait(self, tickets: Sequence[Ticket[R]]) -> list[tuple[Ticket[R], R]]:
        """Wait until a call has ended at all its ranks; return every ended call with the answer of its first rank."""
        ...

    def drop(self, tickets: Sequence[Ticket[Any]]) -> None:
        """Forget calls that were begun. Returns when those that are running have ended; their answers are lost."""
        ...


def require_none_begun(calls: Any) -> None:
    """Raise RuntimeError if a call that was begun has not been waited for."""
    if calls:
        raise RuntimeError(f"{len(calls)} calls to workers are in flight; wait for them first")
