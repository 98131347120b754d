"""A transport whose workers exist only as numbers, and whose time is virtual.

The driver's code runs on it unchanged and takes no virtual time; how many real seconds it takes is measured beside it.
A worker does one thing after another: a call that finds it busy begins when it is free. Calls in which all ranks talk
to each other, which are all but generation, begin together and end together.
"""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

import torch

from reasoner_rl.batching.plan import Share
from reasoner_rl.distributed.serialization import dumps
from reasoner_rl.distributed.transport import Phase, Ticket
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.hybrid.streaming import SentWeights
from reasoner_rl.metrics import Metrics
from reasoner_rl.rollout.engine import MAX_DECODING_STEPS, StepOutput
from reasoner_rl.types import IDLE
from simulation.clock import Clock
from simulation.costs import Costs
from simulation.replica import LengthOf, Replica

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


@dataclass(slots=True)
class Spent:
    """What a run has taken so far."""

    # GPU-seconds by phase in which a rank computed, of all ranks.
    busy: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    row_seconds: float = 0.0  # responses that were drawn, times seconds
    tokens: int = 0  # drawn
    responses: int = 0  # ended, those that were put off included
    calls: int = 0  # that were begun, one for all ranks of it
    pickling: float = 0.0  # real seconds of serialising messages, if that is measured
    message_bytes: int = 0
    simulating: float = 0.0  # real seconds inside the transport, which no driver spends


@dataclass(frozen=True, slots=True)
class _Ended:
    ticket: Ticket[Any]
    answer: Any


class SimulatedTransport:
    """Implements `Transport` with an event heap."""

    def __init__(
        self,
        ranks: int,
        tensor_parallel: int,
        costs: Costs,
        length_of: LengthOf,
        *,
        pickles: bool = False,
        decoding_steps: int = MAX_DECODING_STEPS,
        generators: int = 0,
    ) -> None:
        """ranks: workers that hold the models. generators: further ones that generate alone; 0: the same generate.

        tensor_parallel: ranks of a replica. pickles: serialise messages as Ray would, to see what it takes.

        decoding_steps: most tokens per response in a call of `Worker.generate`; more make fewer events to simulate.
        """
        self.ranks, self.workers = ranks, ranks + generators
        self.generators: Sequence[int] = range(ranks, self.workers) if generators else range(ranks)
        self.meanwhile: Callable[[], object] | None = None
        self.clock: Clock[_Ended] = Clock()
        self.spent = Spent()
        self._costs, self._size, self._pickles = costs, tensor_parallel, pickles
        self._replicas = [
            Replica(costs, length_of, decoding_steps) for _ in range(len(self.generators) // tensor_parallel)
        ]
        self._free = [0.0] * self.workers  # when each rank has nothing to do
        self._begun: set[Ticket[Any]] = set()
        self._heard: dict[Ticket[Any], Any] = {}  # ended, and not waited for as yet
        self._tickets = 0

    def call(
        self, phase: Phase, method: Callable[[Worker, *Arguments], R], arguments: Sequence[tuple[*Arguments]]
    ) -> list[R]:
        """See `Transport.call`."""
        with self._apart():
            answers, end = self._collective(phase, method.__name__, range(self.ranks), arguments)
            end = max(self.clock.now, end) + self._costs.message
        self._pass_until(end)
        return answers

    def _pass_until(self, end: float) -> None:
        """Let time pass, and tell of calls that end meanwhile."""
        while self.meanwhile is not None and self.clock.is_due(end):
            self._hear([self.clock.next()])
            self.meanwhile()
        self.clock.sleep_until(max(end, self.clock.now))

    def begin(
        self,
        phase: Phase,
        method: Callable[[Worker, *Arguments], R],
        ranks: Sequence[int],
        arguments: tuple[*Arguments],
    ) -> Ticket[R]:
        """See `Transport.begin`."""
        with self._apart():
            self._tickets += 1
            ticket: Ticket[R] = Ticket(self._tickets)
            self._begun.add(ticket)
            self.spent.calls += 1
            if method.__name__ == "generate":
                answer, end = self._generate(ranks, arguments)
            else:
                answers, end = self._collective(phase, method.__name__, ranks, [arguments] * len(ranks))
                answer = answers[0]
            self.clock.schedule(max(end, self.clock.now) + self._costs.message, _Ended(ticket, answer))
            return ticket

    def send_weights(self, version: int) -> tuple[SentWeights, Metrics]:
        """See `Transport.send_weights`: the models' workers gather the weights."""
        end = self._occupy("sync", range(self.ranks), [self._costs.sync()] * self.ranks)
        self._pass_until(end + self._costs.message)
        return SentWeights(version, [], ()), {}

    def begin_loading(self, ranks: Sequence[int], weights: SentWeights) -> Ticket[Metrics]:
        """See `Transport.begin_loading`."""
        self._tickets += 1
        ticket: Ticket[Metrics] = Ticket(self._tickets)
        self._begun.add(ticket)
        self._replica_of(ranks[0]).load_weights(weights.version)
        end = self._occupy("sync", ranks, [self._costs.sync()] * len(ranks))
        self.clock.schedule(end + self._costs.message, _Ended(ticket, {}))
        return ticket

    def _replica_of(self, rank: int) -> Replica:
        return self._replicas[(rank - self.generators[0]) // self._size]

    def wait(self, tickets: Sequence[Ticket[R]]) -> list[tuple[Ticket[R], R]]:
        """See `Transport.wait`."""
        with self._apart():
            unknown = [ticket for ticket in tickets if ticket not in self._begun]
            if unknown or not tickets:
                raise KeyError(f"not begun, or waited for already: {unknown}")
            self._hear(self.clock.due())
            while not any(ticket in self._heard for ticket in tickets):
                self._hear([self.clock.next(), *self.clock.due()])
            ended = [ticket for ticket in tickets if ticket in self._heard]
            self._begun.difference_update(ended)
            return [(ticket, self._heard.pop(ticket)) for ticket in ended]

    def drop(self, tickets: Sequence[Ticket[Any]]) -> None:
        """See `Transport.drop`."""
        left = list(tickets)
        while left:
            for ticket, _ in self.wait(left):
                left.remove(ticket)

    def _hear(self, events: Sequence[_Ended]) -> None:
        self._heard.update({event.ticket: event.answer for event in events})

    def _generate(self, ranks: Sequence[int], arguments: tuple[Any, ...]) -> tuple[StepOutput, float]:
        """One step of a replica, from when its ranks are free."""
        requests, sampling = arguments
        replica = self._replica_of(ranks[0])
        self._sent(arguments)
        if requests:
            replica.submit(requests, sampling)
        step = replica.step()
        self._sent(step.output, back=True)
        self.spent.row_seconds += step.row_seconds
        self.spent.tokens += step.output.tokens
        self.spent.responses += step.output.responses
        return step.output, self._occupy("generate", ranks, [step.seconds] * len(ranks))

    def _collective(
        self, phase: str, method: str, ranks: Sequence[int], arguments: Sequence[tuple[Any, ...]]
    ) -> tuple[list[Any], float]:
        """A call that ranks make together; returns their answers, and when it ends."""
        for each in {id(one): one for one in arguments}.values():
            self._sent(each)
        made = [self._answer(method, rank, each) for rank, each in zip(ranks, arguments, strict=True)]
        if method == "update":  # an update ends at all ranks together
            slowest = [max(seconds) for seconds in zip(*(by for _, by in made), strict=True)]
            for _, by in made:
                self.spent.busy[phase] += sum(by)
            return [answer for answer, _ in made], self._occupy(None, ranks, [sum(slowest)] * len(ranks))
        seconds = [sum(by) for _, by in made]
        self.spent.busy[phase] += sum(seconds)
        return [answer for answer, _ in made], self._occupy(None, ranks, [max(seconds)] * len(ranks))

    def _answer(self, method: str, rank: int, arguments: tuple[Any, ...]) -> tuple[Any, list[float]]:
        """What a rank answers, and its seconds; of updates, the seconds of each."""
        costs = self._costs
        if method == "cancel":
            self._replica_of(rank).cancel()
            return None, [0.0]
        if method == "interrupt":
            output = self._replica_of(rank).interrupt()
            self._sent(output, back=True)
            return output, [0.0]
        if method == "publish":
            self._replica_of(rank).load_weights(arguments[0])
            return {}, [costs.sync()]
        if method in ("logprobs", "entropies", "values"):
            share = arguments[1]
            answer = {
                index: torch.zeros(len(sample.response_ids))
                for index, sample in zip(share.sample_indices, share.samples, strict=True)
                if index != IDLE
            }
            return answer, [costs.forward(_lengths(share))]
        if method == "update":
            _, shares, epochs = arguments[:3]
            return {}, [costs.update(_lengths(share)) for share in shares] * epochs
        raise NotImplementedError(f"the simulation has no {method}")

    def _occupy(self, phase: str | None, ranks: Sequence[int], seconds: Sequence[float]) -> float:
        """Let ranks be busy from when all of them are free; returns when the last is free again."""
        start = max(self.clock.now, *(self._free[rank] for rank in ranks))
        for rank, each in zip(ranks, seconds, strict=True):
            self._free[rank] = start + each
            if phase is not None:
                self.spent.busy[phase] += each
        return start + max(seconds)

    def _sent(self, message: Any, back: bool = False) -> None:
        """Serialise a message, and read it if it comes back, where that is to be measured."""
        if not self._pickles:
            return
        started = time.process_time()
        body, buffers = dumps(message)
        if back:  # the driver reads it, a worker has written it
            started = time.process_time()
            pickle.loads(body, buffers=buffers)
        self.spent.pickling += time.process_time() - started
        self.spent.message_bytes += len(body) + sum(len(buffer.raw()) for buffer in buffers)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Count real seconds as the simulation's, and not as the driver's."""
        started = time.process_time()
        try:
            yield
        finally:
            self.spent.simulating += time.process_time() - started


def _lengths(share: Share) -> list[int]:
    return [sample.tokens for sample in share.samples]
