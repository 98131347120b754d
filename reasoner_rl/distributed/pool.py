"""All that generates in a run, spoken to as one generator: the replicas of the rollout engine on all workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from reasoner_rl.config.rollout import EngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.distributed.transport import Ticket, Transport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput


class GenerationPool(Generator):
    """Hands requests out to replicas and merges what they finish.

    ``tensor_parallel`` neighbouring ranks make a replica, which holds one copy of the model. A replica is given as many
    responses as it can draw side by side, and more when it has finished some, so that none is idle while another has a
    queue.
    """

    def __init__(self, engine: EngineConfig, transport: Transport) -> None:
        size = engine.tensor_parallel if isinstance(engine, VllmEngineConfig) else 1
        self._transport = transport
        self._replicas = [tuple(range(first, first + size)) for first in range(0, transport.ranks, size)]
        self._capacity = engine.max_batch_sequences  # responses that a replica has in flight
        self._sampling = SamplingConfig()
        self._forget()

    def _forget(self) -> None:
        self._queue = deque[GenerationRequest]()
        self._inbox: list[list[GenerationRequest]] = [[] for _ in self._replicas]
        self._load = [0] * len(self._replicas)  # responses in flight, those in the inbox included
        self._running: dict[Ticket[StepOutput], int] = {}  # ticket -> replica

    @property
    def in_flight(self) -> int:
        """Responses that were submitted and are neither returned nor cancelled."""
        return sum(self._load) + sum(request.samples for request in self._queue)

    def require_idle(self) -> None:
        """Raise RuntimeError if responses are in flight: to train then would lose them."""
        if self.in_flight:
            raise RuntimeError(
                f"{self.in_flight} responses are in flight; wait for them, or cancel them, first"
            )

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        self._queue += requests
        self._sampling = sampling

    def step(self) -> StepOutput:
        """See `Generator.step`."""
        self._hand_out()
        if not self._running:
            return StepOutput()
        together = StepOutput()
        for ticket, output in self._transport.wait(list(self._running)):
            replica = self._running.pop(ticket)
            self._load[replica] -= output.responses
            together = StepOutput(
                together.finished + output.finished,
                together.responses + output.responses,
                together.tokens + output.tokens,
            )
        self._hand_out()  # so that they generate while the caller looks at what they have finished
        return together

    def _hand_out(self) -> None:
        """Give queued requests to the replicas with the least to do, and let each that has something to do step."""
        while self._queue:
            replica = min(range(len(self._replicas)), key=self._load.__getitem__)
            samples = self._queue[0].samples
            full = self._load[replica] and self._load[replica] + samples > self._capacity
            if len(self._replicas) > 1 and full:
                break
            self._inbox[replica].append(self._queue.popleft())
            self._load[replica] += samples
        busy = set(self._running.values())
        for replica, ranks in enumerate(self._replicas):
            if self._load[replica] and replica not in busy:
                arguments = (self._inbox[replica], self._sampling)
                self._running[self._transport.begin("generate", Worker.generate, ranks, arguments)] = replica
                self._inbox[replica] = []

    def cancel(self) -> None:
        """See `Generator.cancel`. Returns when the steps that are running have ended."""
        self._transport.drop(list(self._running))
        self._forget()
        self._transport.call("generate", Worker.cancel, [()] * self._transport.ranks)
