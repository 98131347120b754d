"""The schedule of verl's DAPO, which the product does not have: whole generation batches, each to its end.

verl draws all responses of a generation batch, drops groups that are all right or all wrong, and draws a further batch
if too few are left (recipe/dapo of verl, arXiv 2503.14476). Here a further batch has as many prompts as were dropped,
which is less than verl's and therefore faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput
from reasoner_rl.types import Rollout


class BarrierGenerator(Generator):
    """Hands nothing on until all that was begun together has ended; then one request after the other, in order.

    What is submitted meanwhile is begun when the whole batch was handed on.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._forget()

    def _forget(self) -> None:
        self._waiting: list[GenerationRequest] = []
        self._ended: deque[StepOutput] = deque()
        self._sampling = SamplingConfig()

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        self._waiting += requests
        self._sampling = sampling

    def step(self) -> StepOutput:
        """See `Generator.step`."""
        if not self._ended and self._waiting:
            self._draw()
        return self._ended.popleft() if self._ended else StepOutput()

    def _draw(self) -> None:
        """Draw a batch to its end."""
        self._generator.submit(self._waiting, self._sampling)
        going, self._waiting = len(self._waiting), []
        finished: dict[int, list[Rollout]] = {}
        tokens = 0
        while len(finished) < going:
            output = self._generator.step()
            finished |= dict(output.finished)
            tokens += output.tokens
        for number in sorted(finished):
            rollouts = finished[number]
            self._ended.append(StepOutput([(number, rollouts)], len(rollouts), tokens))
            tokens = 0

    def cancel(self) -> None:
        """See `Generator.cancel`."""
        self._forget()
        self._generator.cancel()

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`; a barrier is not interrupted, so what is in flight is dropped."""
        self.cancel()
        return StepOutput()
