"""All that generates in a run, spoken to as one generator: the replicas of the rollout engine on all workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from reasoner_rl.config.rollout import EngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.distributed.transport import Ticket, Transport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.hybrid.streaming import SentWeights
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput


class GenerationPool(Generator):
    """Hands requests out to replicas and merges what they finish.

    ``tensor_parallel`` neighbouring ranks make a replica, which holds one copy of the model. A replica is given as many
    responses as it can draw side by side, and more when it has finished some, so that none is idle while another has a
    queue.
    """

    def __init__(self, engine: EngineConfig, transport: Transport) -> None:
        size = engine.tensor_parallel if isinstance(engine, VllmEngineConfig) else 1
        ranks = transport.generators
        self._transport = transport
        self._replicas = [tuple(ranks[first : first + size]) for first in range(0, len(ranks), size)]
        self._capacity = engine.max_batch_sequences  # responses that a replica has in flight
        self._sampling = SamplingConfig()
        self._weights: SentWeights | None = None
        self._outdated = set[int]()  # replicas that have not begun to load these weights
        self._loading: dict[Ticket[Metrics], int] = {}  # ticket -> replica
        self._loaded: list[Metrics] = []
        self._forget()

    def _forget(self) -> None:
        self._queue = deque[GenerationRequest]()
        self._inbox: list[list[GenerationRequest]] = [[] for _ in self._replicas]
        self._load = [0] * len(self._replicas)  # responses in flight, those in the inbox included
        self._running: dict[Ticket[StepOutput], int] = {}  # ticket -> replica
        # Replicas that do nothing now. Kept, since with many replicas few of them are free when one has ended a step.
        self._free = set(range(len(self._replicas))).difference(self._loading.values())

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

    def renew(self, weights: SentWeights) -> None:
        """Have every replica load weights, each as soon as it has finished what it has in flight."""
        self._weights = weights
        self._outdated = set(range(len(self._replicas)))
        self._hand_out()

    def loaded(self) -> Metrics:
        """What loading has cost since the last call."""
        taken, self._loaded = merge(self._loaded), []
        return taken

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        self._queue += requests
        self._sampling = sampling

    def step(self) -> StepOutput:
        """See `Generator.step`."""
        self._hand_out()
        output = self._wait()
        self._hand_out()  # so that they generate while the caller looks at what they have finished
        return output

    def _wait(self) -> StepOutput:
        """Wait until a replica has made a step, or loaded; take up what it has finished."""
        together = StepOutput()
        tickets: list[Ticket[Any]] = [*self._running, *self._loading]
        for ticket, answer in self._transport.wait(tickets) if tickets else ():
            if ticket in self._loading:
                self._free.add(self._loading.pop(ticket))
                self._loaded.append(answer)
                if not self._outdated and not self._loading:
                    self._weights = None  # so that the copy that was sent can be dropped
                continue
            replica = self._running.pop(ticket)
            self._free.add(replica)
            self._load[replica] -= answer.responses
            together = together.followed_by(answer)
        return together

    def _hand_out(self) -> None:
        """Give queued requests to the replicas with the least to do, and let each that has something to do step."""
        self._begin_loading()
        up_to_date = [r for r in range(len(self._replicas)) if r not in self._outdated] if self._queue else []
        while self._queue and up_to_date:
            replica = min(up_to_date, key=self._load.__getitem__)
            samples = self._queue[0].samples
            full = self._load[replica] and self._load[replica] + samples > self._capacity
            if len(self._replicas) > 1 and full:
                break
            self._inbox[replica].append(self._queue.popleft())
            self._load[replica] += samples
        for replica in sorted(self._free):
            if self._load[replica]:
                ranks, arguments = self._replicas[replica], (self._inbox[replica], self._sampling)
                self._running[self._transport.begin("generate", Worker.generate, ranks, arguments)] = replica
                self._free.remove(replica)
                self._inbox[replica] = []

    def _begin_loading(self) -> None:
        for replica in sorted(self._outdated & self._free):
            if not self._load[replica]:
                assert self._weights is not None
                ticket = self._transport.begin_loading(self._replicas[replica], self._weights)
                self._loading[ticket] = replica
                self._free.remove(replica)
                self._outdated.remove(replica)

    def cancel(self) -> None:
        """See `Generator.cancel`. Returns when the steps that are running have ended."""
        self._transport.drop(list(self._running))
        self._forget()
        self._finish_loading()
        self._tell(range(len(self._replicas)), Worker.cancel)

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`. Returns when the steps that are running have ended."""
        output = StepOutput()
        while self._running:
            output = output.followed_by(self._wait())
        self._finish_loading()
        busy = [replica for replica, load in enumerate(self._load) if load]
        self._forget()
        for found in self._tell(busy, Worker.interrupt):
            output = output.followed_by(found)
        return output

    def _finish_loading(self) -> None:
        while self._loading:
            self._wait()

    def _tell(self, replicas: Sequence[int], method: Any) -> list[Any]:
        """Call a method without arguments on all ranks of some replicas at once; returns their answers, in order."""
        waiting: dict[Ticket[Any], int] = {}
        for replica in replicas:
            waiting[self._transport.begin("generate", method, self._replicas[replica], ())] = replica
        answers = {}
        while waiting:
            for ticket, answer in self._transport.wait(list(waiting)):
                answers[waiting.pop(ticket)] = answer
        return [answers[replica] for replica in replicas]
