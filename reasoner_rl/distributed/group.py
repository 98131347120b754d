"""All workers of a run, spoken to as one. The loops do not know how many there are, nor where."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from reasoner_rl.batching.plan import plan_shards
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.config.rollout import SamplingConfig, VllmEngineConfig
from reasoner_rl.config.training import BackendConfig
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.rollout.engine import GenerationRequest, Generator, Turn
from reasoner_rl.types import MiniBatch, TrainSample

T = TypeVar("T")
Phase = Literal["start", "generate", "train", "sync", "checkpoint"]  # the keys of cluster.deadlines


class Transport(Protocol):
    """How calls reach the workers. Ranks count from 0; an error in a worker ends the run."""

    ranks: int

    def call(self, phase: Phase, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every worker at once, with a tuple of arguments a rank; return the answers by rank.

        Workers take it up after the calls that were begun before; what those answer is not wanted any more.
        """
        ...

    def begin(self, phase: Phase, method: str, ranks: Sequence[int], arguments: tuple[Any, ...]) -> Hashable:
        """Begin a call to some workers, with the same arguments; return a ticket to wait for."""
        ...

    def wait(self, tickets: Sequence[Hashable]) -> list[tuple[Hashable, Any]]:
        """Wait until a call has ended at all its ranks; return every ended call with the answer of its first rank."""
        ...


class WorkerGroup(Generator):
    """What the driver needs of its workers.

    Generation: ``tensor_parallel`` neighbouring ranks make a replica, which holds one copy of the model. A replica is
    given as many responses as it can draw side by side, and more when it has finished some, so that none is idle while
    another has a queue. Training: a batch is divided by length, and every data-parallel replica trains on its share.
    """

    def __init__(self, config: OnlineConfig | EvalConfig, transport: Transport) -> None:
        engine = config.engine if isinstance(config, EvalConfig) else config.rollout.engine
        size = engine.tensor_parallel if isinstance(engine, VllmEngineConfig) else 1
        self._config, self._transport = config, transport
        self._replicas = [tuple(range(first, first + size)) for first in range(0, transport.ranks, size)]
        self._capacity = engine.max_batch_sequences  # responses that a replica has in flight
        self._sampling = SamplingConfig()
        self._forget()

    @property
    def shards(self) -> int:
        """Number of parts that a training batch is to be divided into."""
        return self._backend.shards(self._transport.ranks)

    @property
    def _backend(self) -> BackendConfig:
        assert isinstance(self._config, OnlineConfig)
        return self._config.training.backend

    def _by_rank(self, by_shard: Sequence[T]) -> list[T]:
        """What each rank gets of something that was divided into shards."""
        ranks = self._transport.ranks
        return [by_shard[self._backend.shard_of(rank, ranks)] for rank in range(ranks)]

    def _forget(self) -> None:
        self._queue = deque[GenerationRequest]()
        self._inbox: list[list[GenerationRequest]] = [[] for _ in self._replicas]
        self._load = [0] * len(self._replicas)  # responses in flight, those in the inbox included
        self._running: dict[Hashable, int] = {}  # ticket -> replica

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """See `Generator.submit`."""
        self._queue += requests
        self._sampling = sampling

    def advance(self) -> Turn:
        """See `Generator.advance`."""
        self._hand_out()
        if not self._running:
            return Turn()
        together = Turn()
        for ticket, turn in self._transport.wait(list(self._running)):
            replica = self._running.pop(ticket)
            self._load[replica] -= turn.responses
            together = Turn(together.finished + turn.finished, together.responses + turn.responses)
        self._hand_out()  # so that they go on while the caller looks at what they have finished
        return together

    def _hand_out(self) -> None:
        """Give queued requests to the replicas with the least to do, and a turn to each that has something to do."""
        while self._queue:
            replica = min(range(len(self._replicas)), key=self._load.__getitem__)
            samples = self._queue[0].samples
            if (
                len(self._replicas) > 1
                and self._load[replica]
                and self._load[replica] + samples > self._capacity
            ):
                break
            self._inbox[replica].append(self._queue.popleft())
            self._load[replica] += samples
        busy = set(self._running.values())
        for replica, ranks in enumerate(self._replicas):
            if self._load[replica] and replica not in busy:
                arguments = (self._inbox[replica], self._sampling)
                self._running[self._transport.begin("generate", "turn", ranks, arguments)] = replica
                self._inbox[replica] = []

    def abort(self) -> None:
        """See `Generator.abort`. Returns when the turns that are running have ended."""
        self._forget()
        self._call("generate", "abort")

    def logprobs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> list[Tensor]:
        """Response logprobs [R] of each sample, in order, by the trainer's or the reference policy's weights."""
        config = self._config
        assert isinstance(config, OnlineConfig)
        limit = config.rollout.sampling.max_response_tokens
        planned = plan_shards(samples, config.batch.micro_batch_tokens, limit, self.shards)
        by_index: dict[int, Tensor] = {}
        arguments = [(shard, reference) for shard in self._by_rank(planned)]
        for answer in self._transport.call("train", "logprobs", arguments):
            by_index.update(answer)
        return [by_index[index] for index in range(len(samples))]

    def update(self, planned: Sequence[Sequence[MiniBatch]]) -> Metrics:
        """One optimizer update a mini-batch; ``planned`` is [shards][updates]."""
        return merge(
            self._transport.call("train", "update", [(updates,) for updates in self._by_rank(planned)])
        )

    def publish_weights(self, version: int) -> Metrics:
        """Give the trainer's weights to generation. Returns what the phase changes since the last call cost."""
        return merge(self._call("sync", "publish_weights", version))

    def save(self, folder: Path) -> None:
        """Write the training state into an existing folder."""
        self._call("checkpoint", "save", folder)

    def load(self, folder: Path) -> None:
        """Restore the training state; weights must be published afterwards."""
        self._call("checkpoint", "load", folder)

    def export(self, folder: Path) -> None:
        """Write weights and tokenizer as a Hugging Face checkpoint."""
        self._call("checkpoint", "export", folder)

    def _call(self, phase: Phase, method: str, *arguments: Any) -> list[Any]:
        return self._transport.call(phase, method, [arguments] * self._transport.ranks)
