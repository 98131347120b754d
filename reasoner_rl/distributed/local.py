"""One worker in the driver's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

from reasoner_rl.distributed.transport import Phase, Ticket, require_none_begun
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.hybrid.streaming import SentWeights
from reasoner_rl.metrics import Metrics

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


class LocalTransport:
    """Calls a worker's methods directly. A call that was begun is made when it is waited for."""

    ranks = 1
    generators: Sequence[int] = (0,)
    meanwhile: Callable[[], object] | None = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._begun: dict[Ticket[Any], Callable[[], Any]] = {}
        self._tickets = 0

    def call(
        self, phase: Phase, method: Callable[[Worker, *Arguments], R], arguments: Sequence[tuple[*Arguments]]
    ) -> list[R]:
        """See `Transport.call`."""
        del phase
        require_none_begun(self._begun)
        return [method(self._worker, *arguments[0])]

    def begin(
        self,
        phase: Phase,
        method: Callable[[Worker, *Arguments], R],
        ranks: Sequence[int],
        arguments: tuple[*Arguments],
    ) -> Ticket[R]:
        """See `Transport.begin`."""
        del phase, ranks
        self._tickets += 1
        ticket: Ticket[R] = Ticket(self._tickets)
        self._begun[ticket] = lambda: method(self._worker, *arguments)
        return ticket

    def send_weights(self, version: int) -> tuple[SentWeights, Metrics]:
        """See `Transport.send_weights`. Raises RuntimeError: the one worker has the models itself."""
        raise RuntimeError("a single worker generates with the weights that it trains")

    def begin_loading(self, ranks: Sequence[int], weights: SentWeights) -> Ticket[Metrics]:
        """See `Transport.begin_loading`. Raises RuntimeError, as `send_weights`."""
        raise RuntimeError("a single worker generates with the weights that it trains")

    def wait(self, tickets: Sequence[Ticket[R]]) -> list[tuple[Ticket[R], R]]:
        """See `Transport.wait`."""
        return [(tickets[0], self._begun.pop(tickets[0])())]

    def drop(self, tickets: Sequence[Ticket[Any]]) -> None:
        """See `Transport.drop`. None of them is running."""
        for ticket in tickets:
            self._begun.pop(ticket, None)  # gone already if it raised an error
