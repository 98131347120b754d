"""What workers answer, where they are, and what becomes of errors of Ray itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from reasoner_rl.distributed.interfaces import Network
from reasoner_rl.errors import WorkerError


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a worker."""

    kind: str  # "died", "user", "diverged" or "error"
    message: str
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a worker is."""

    machine: str  # its host name
    process: int = 0  # 0: not known yet
    network: Network | None = None

    def __str__(self) -> str:
        return f"{self.machine} (process {self.process})" if self.process else self.machine


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker's method returned, or why it did not."""

    value: Any = None
    failure: Failure | None = None


@contextmanager
def as_worker_error(when: str) -> Iterator[None]:
    """What Ray itself raises, such as where a machine of its own dies."""
    try:
        yield
    except RayError as error:
        raise WorkerError(
            f"Ray failed {when}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
