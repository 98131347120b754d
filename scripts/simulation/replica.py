"""One replica of a rollout engine without a model: it counts tokens, and the seconds that they would have taken.

It steps as `Generator.step` does: until a request is finished, or for MAX_DECODING_STEPS tokens. Waiting responses
begin in their order when a row and room for their keys and values are free. Where the cache runs out, the response that
was begun last waits again, and is read anew with what was drawn of it, as vLLM does.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.rollout.engine import MAX_DECODING_STEPS, GenerationRequest, StepOutput
from reasoner_rl.rollout.in_flight import InFlight
from reasoner_rl.types import Rollout
from simulation.costs import Costs

READ_PER_STEP = 8192  # tokens of prompts per step of vLLM, its max_num_batched_tokens; an assumption

# Lengths of all responses to a prompt, cut off at the limit, by the request's seed and prompt.
LengthOf = Callable[[GenerationRequest, int], int]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One response that is in flight."""

    request: GenerationRequest
    sample: int  # its number in the request
    tokens: int  # that it will have drawn for the request
    whole: bool  # whether it then ends by itself


@dataclass(frozen=True, slots=True)
class Step:
    """What a step has done."""

    output: StepOutput
    seconds: float
    row_seconds: float  # rows that drew, times the seconds in which they did


class Replica:
    """The state of a replica; see the module."""

    def __init__(self, costs: Costs, length_of: LengthOf, decoding_steps: int = MAX_DECODING_STEPS) -> None:
        self._costs, self._length_of, self._steps = costs, length_of, decoding_steps
        self.version = 0  # of the weights
        self._clear()

    def _clear(self) -> None:
        self._in_flight = InFlight()
        self._waiting: deque[tuple[Drawing, int]] = (
            deque()
        )  # with the tokens drawn before it was made to wait
        self._running: list[Drawing] = []
        self._drawn = numpy.zeros(0, dtype=numpy.int64)  # of each that is running
        self._left = numpy.zeros(0, dtype=numpy.int64)
        self._context = 0  # tokens of all that are running, prompts included
        self._read: set[int] = set()  # seeds of groups whose prompt is in the cache

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        self._in_flight.add(requests, sampling)
        for request in requests:
            limit = request.limit(sampling)
            for sample in range(request.samples):
                left = self._length_of(request, request.first_sample + sample) - len(request.begun)
                sequence = Drawing(request, sample, min(max(left, 1), limit), left <= limit)
                self._waiting.append((sequence, 0))

    def step(self) -> Step:
        """See `Generator.step`."""
        seconds = row_seconds = 0.0
        tokens, to_go = 0, self._steps
        while to_go > 0 and not self._in_flight.any_finished:
            read, spent = self._admit(to_go * READ_PER_STEP)
            seconds += spent
            to_go -= read // READ_PER_STEP  # decoding goes on beside what is left
            rows = len(self._running)
            if not rows or to_go <= 0:
                break
            steps = min(to_go, int(self._left.min()))
            room = (self._costs.cache_tokens - self._context) // rows
            if room < 1 and rows > 1:
                self._make_wait()
                continue
            steps = min(steps, max(room, 1))
            spent = steps * self._costs.decode(rows, self._context / rows + steps / 2)
            seconds, row_seconds = seconds + spent, row_seconds + rows * spent
            self._drawn += steps
            self._left -= steps
            self._context += rows * steps
            tokens, to_go = tokens + rows * steps, to_go - steps
            if not self._left.all():
                self._end()
        taken = self._in_flight.take()
        output = StepOutput(taken.finished, taken.responses, tokens)
        return Step(output, seconds, row_seconds)

    def _admit(self, most: int) -> tuple[int, float]:
        """Begin what there is room for, until ``most`` tokens are read; returns the tokens read, and their seconds."""
        begun: list[tuple[Drawing, int]] = []
        seconds, read = 0.0, 0
        while self._waiting and read < most and len(self._running) + len(begun) < self._costs.rows:
            sequence, drawn = self._waiting[0]
            request = sequence.request
            context = len(request.prompt_ids) + len(request.begun) + drawn
            others = len(self._running) + len(begun)
            if others and self._context + context + others + 1 > self._costs.cache_tokens:
                break
            self._waiting.popleft()
            begun.append((sequence, drawn))
            self._context += context
            shared = len(request.prompt_ids) if request.seed in self._read else 0
            self._read.add(request.seed)
            read += context - shared
            seconds += self._costs.prefill(context - shared, context)
        if begun:
            self._running += [sequence for sequence, _ in begun]
            drawn_before = numpy.array([drawn for _, drawn in begun])
            wanted = numpy.array([sequence.tokens for sequence, _ in begun])
            self._drawn = numpy.concatenate([self._drawn, drawn_before])
            self._left = numpy.concatenate([self._left, wanted - drawn_before])
        return read, seconds

    def _make_wait(self) -> None:
        """The response that was begun last gives its room back."""
        sequence = self._running.pop()
        drawn = int(self._drawn[-1])
        self._drawn, self._left = self._drawn[:-1], self._left[:-1]
        self._context -= len(sequence.request.prompt_ids) + len(sequence.request.begun) + drawn
        self._waiting.appendleft((sequence, drawn))

    def _end(self) -> None:
        """Record what has all its tokens."""
        places = numpy.flatnonzero(self._left == 0).tolist()
        for place in places:
            sequence = self._running[place]
            request = sequence.request
            self._context -= len(request.prompt_ids) + len(request.begun) + sequence.tokens
            self._in_flight.record(request.number, sequence.sample, self._rollout(sequence))
        for place in reversed(places):
            del self._running[place]
        going = self._left > 0
        self._drawn, self._left = self._drawn[going], self._left[going]

    def _rollout(self, sequence: Drawing) -> Rollout:
        reason = "stop" if sequence.whole else "length"
        return self._made(sequence.tokens, reason)

    def _made(self, tokens: int, reason: str) -> Rollout:
        numbers = bytes(4 * tokens)
        return Rollout(array("i", numbers), array("f", numbers), reason, self.version, "")  # type: ignore[arg-type]

    def load_weights(self, version: int) -> None:
        """Draw as this policy from now on; what was read of prompts is forgotten."""
        self.version = version
        self._read.clear()

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`."""
        going = [(sequence, int(drawn)) for sequence, drawn in zip(self._running, self._drawn, strict=True)]
        begun = {
            (sequence.request.number, sequence.sample): self._made(drawn, "length")
            for sequence, drawn in [*going, *self._waiting]
            if drawn
        }
        output = self._in_flight.interrupt(begun, self.version)
        self._clear()
        return output

    def cancel(self) -> None:
        """See `Generator.cancel`."""
        self._clear()
