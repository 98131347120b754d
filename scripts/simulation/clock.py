"""Virtual time: a heap of what will happen, and when."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")


class Clock(Generic[T]):
    """Events in the order of their times; those of the same time in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, at: float, event: T) -> None:
        """Note that something will happen. Raises ValueError if ``at`` is in the past."""
        if at < self.now:
            raise ValueError(f"an event at {at} s lies in the past: it is {self.now} s")
        heapq.heappush(self._heap, (at, next(self._numbers), event))

    def next(self) -> T:
        """Go on to the next event and return it. Raises IndexError if there is none."""
        at, _, event = heapq.heappop(self._heap)
        self.now = max(self.now, at)
        return event

    def is_due(self, by: float) -> bool:
        """Whether anything happens by a time."""
        return bool(self._heap) and self._heap[0][0] <= by

    def due(self) -> list[T]:
        """Whatever else happens by now."""
        found = []
        while self._heap and self._heap[0][0] <= self.now:
            found.append(heapq.heappop(self._heap)[2])
        return found

    def sleep_until(self, at: float) -> None:
        """Let time pass; events that lie before are due. Raises ValueError if ``at`` is in the past."""
        if at < self.now:
            raise ValueError(f"{at} s lies in the past: it is {self.now} s")
        self.now = at
