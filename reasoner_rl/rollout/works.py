"""What an engine is working on: which responses of which requests are still to come."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.engine import GenerationRequest, Turn
from reasoner_rl.types import Rollout


class Works:
    """Collects the responses of each request until they are complete."""

    def __init__(self) -> None:
        self.sampling = SamplingConfig()
        self._wanted: dict[int, int] = {}  # number of the request -> responses
        self._found: dict[int, dict[int, Rollout]] = {}
        self._turn = Turn()
        self._responses = 0

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """Take requests on. Raises ValueError for an empty prompt, a number in use, or a change of sampling."""
        for index, request in enumerate(requests):
            if not request.prompt_ids:
                raise ValueError(f"request {index} has an empty prompt; a prompt needs at least one token")
        if self and sampling != self.sampling:
            raise ValueError("requests with another sampling are in flight; wait for them or abort them")
        self.sampling = sampling
        for request in requests:
            if request.number in self._wanted:
                raise ValueError(f"request number {request.number} is in flight already")
            self._wanted[request.number] = request.samples
            self._found[request.number] = {}

    def record(self, number: int, sample: int, rollout: Rollout) -> None:
        """Note that one response is finished."""
        found = self._found[number]
        found[sample] = rollout
        self._responses += 1
        if len(found) == self._wanted[number]:
            del self._wanted[number], self._found[number]
            self._turn.finished.append((number, [found[sample] for sample in sorted(found)]))

    @property
    def any_finished(self) -> bool:
        """Whether `turn` has a whole request to return."""
        return bool(self._turn.finished)

    def turn(self) -> Turn:
        """Everything recorded since the last call."""
        taken = Turn(self._turn.finished, self._responses)
        self._turn, self._responses = Turn(), 0
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]


def require_idle(works: Works) -> None:
    """Raise RuntimeError if anything is in flight."""
    if works:
        raise RuntimeError("sleep needs an engine with nothing in flight; wait for it or abort it")
