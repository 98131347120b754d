"""One worker in the driver's own process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from reasoner_rl.distributed.group import Phase


class LocalTransport:
    """Calls a worker's methods directly. A call that was begun is made when it is waited for."""

    ranks = 1

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._begun: dict[Hashable, tuple[str, tuple[Any, ...]]] = {}
        self._tickets = 0

    def call(self, phase: Phase, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `Transport.call`."""
        del phase
        self._begun.clear()
        return [getattr(self._worker, method)(*arguments[0])]

    def begin(self, phase: Phase, method: str, ranks: Sequence[int], arguments: tuple[Any, ...]) -> Hashable:
        """See `Transport.begin`."""
        del phase, ranks
        self._tickets += 1
        self._begun[self._tickets] = (method, arguments)
        return self._tickets

    def wait(self, tickets: Sequence[Hashable]) -> list[tuple[Hashable, Any]]:
        """See `Transport.wait`."""
        method, arguments = self._begun.pop(tickets[0])
        return [(tickets[0], getattr(self._worker, method)(*arguments))]
