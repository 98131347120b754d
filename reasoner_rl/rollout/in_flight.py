"""What an engine has in flight: which responses of which requests are still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import Rollout


class InFlight:
    """Collects the responses of each request until they are complete."""

    def __init__(self) -> None:
        self.sampling = SamplingConfig()
        self._wanted: dict[int, int] = {}  # number of the request -> responses
        self._found: dict[int, dict[int, Rollout]] = {}
        self._output = StepOutput()
        self._responses = 0

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """Take requests on.

        Raises ValueError for an empty prompt, a number in use, a change of sampling, several responses that are to go
        on after the same tokens, or no room for a token.
        """
        for index, request in enumerate(requests):
            if not request.prompt_ids:
                raise ValueError(f"request {index} has an empty prompt; a prompt needs at least one token")
            if request.begun and request.samples != 1:
                raise ValueError(f"request {index} continues a response, and asks for {request.samples}")
            if request.limit(sampling) < 1:
                raise ValueError(f"request {index} has no room for a token: {len(request.begun)} are there")
        if self and sampling != self.sampling:
            raise ValueError("requests with another sampling are in flight; wait for them or cancel them")
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
            self._output.finished.append((number, [found[sample] for sample in sorted(found)]))

    @property
    def any_finished(self) -> bool:
        """Whether `take` has a whole request to return."""
        return bool(self._output.finished)

    def take(self) -> StepOutput:
        """Everything recorded since the last call."""
        taken = StepOutput(self._output.finished, self._responses)
        self._output, self._responses = StepOutput(), 0
        return taken

    def interrupt(self, begun: Mapping[tuple[int, int], Rollout], version: int) -> StepOutput:
        """Everything recorded since `take`, and what there is of the rest, of which nothing is in flight any more.

        begun: by request and sample, the responses that have not ended, but for those without a token.
        version: of the policy that was to draw these.
        """
        interrupted, nothing = [], Rollout((), (), "length", version, "")
        for number, samples in self._wanted.items():
            found = self._found[number]
            responses = [
                found.get(sample) or begun.get((number, sample), nothing) for sample in range(samples)
            ]
            if any(len(response.token_ids) for response in responses):
                interrupted.append((number, responses))
        output = replace(self.take(), interrupted=interrupted)
        self.clear()
        return output

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]


def require_idle(in_flight: InFlight) -> None:
    """Raise RuntimeError if anything is in flight."""
    if in_flight:
        raise RuntimeError("sleep needs an engine with nothing in flight; wait for it or cancel it")
