"""The hybrid engine: one training backend and one rollout engine that take turns on the same device.

    generate phase --begin_training()--> train phase --publish(version)--> generate phase

Every phase change is made here and nowhere else, in this order:

    begin_training   rollout.sleep -> backend.reload
    publish          score the proof's text (trainer) -> backend.offload_optimizer -> rollout.wake_weights
                     -> rollout.load_weights, tensor by tensor (rollout.adopt, where storage is shared)
                     -> backend.offload_weights -> rollout.wake_cache -> score the proof's text (rollout), compare

so the device holds one whole copy of the weights, one rank's shards and one whole tensor at most, and the key-value
cache only once the trainer has made room. Before each wake torch gives its cached blocks back: vLLM maps device memory
itself and cannot use them. Generating while training, or training while generating, raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.hybrid.meter import SwitchMeter
from reasoner_rl.hybrid.proof import SyncProof, WeightSyncError, any_rank
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.rollout.engine import GenerationRequest, Generator, RolloutEngine, Turn
from reasoner_rl.training.backend import LossFunction, TrainBackend
from reasoner_rl.types import MicroBatch, MiniBatch

Phase = Literal["train", "generate"]
Offload = Literal["none", "optimizer", "all"]


class HybridEngine(Generator):
    """Owns both engines. Starts in the train phase: nothing can be generated before weights were published.

    Args:
        offload: what the trainer moves to host memory while the rollout engine generates.
        shared: both engines use the same storage, so a sync moves nothing.
    """

    def __init__(
        self,
        backend: TrainBackend,
        rollout: RolloutEngine,
        proof: SyncProof,
        offload: Offload = "none",
        *,
        shared: bool = False,
    ) -> None:
        self.backend = backend
        self.rollout = rollout
        self.proof = proof
        self.offload: Offload = offload
        self.shared = shared
        self.phase: Phase = "train"
        self._version = 0
        self._meter = SwitchMeter()
        rollout.sleep()

    def begin_training(self) -> None:
        """Put the rollout engine to sleep and bring the trainer back; does nothing in the train phase."""
        if self.phase == "train":
            return
        with self._meter.change("switch"):
            self.rollout.sleep()
            if self.offload != "none":
                self.backend.reload()
        self.phase = "train"

    def publish(self, version: int) -> Metrics:
        """Wake the rollout engine, give it the trainer's weights as policy ``version``, and prove that it has them.

        Returns what this phase change and the one before it cost. Raises WeightSyncError, naming the tensors that
        differ, if they do.
        """
        self.begin_training()
        meter = self._meter
        with meter.change("sync"):
            with meter.part("sync_check"):
                expected = self.proof.expected(self.backend)
            with meter.part("sync_offload"):
                if self.offload != "none":
                    self.backend.offload_optimizer()
            with meter.part("sync_wake"):
                _give_back_cached_memory()
                self.rollout.wake_weights()
            with meter.part("sync_load"):
                if self.shared:
                    self.rollout.adopt(version)
                else:
                    self.rollout.load_weights(meter.counted(self.backend.full_weights()), version)
            with meter.part("sync_check"):
                self.proof.compare_tensors(self.backend, self.rollout)
            with meter.part("sync_offload"):
                if self.offload == "all":
                    self.backend.offload_weights()
            with meter.part("sync_wake"):
                _give_back_cached_memory()
                self.rollout.wake_cache()
            with meter.part("sync_check"):
                self._compare_scores(expected)
        self.phase, self._version = "generate", version
        return merge([meter.take(), self.proof.metrics()])

    @contextmanager
    def weights_at_hand(self) -> Iterator[TrainBackend]:
        """The trainer with its weights on the device, to write them, in whatever phase; the phase stays what it is.

        Where they are in host memory while the rollout engine generates, the two take turns and the weights are
        published once more: there may be no room for both.
        """
        if self.phase == "train" or self.offload != "all":
            yield self.backend
            return
        self.begin_training()
        yield self.backend
        self.publish(self._version)

    def _compare_scores(self, expected: Sequence[float]) -> None:
        """Every rank looks at its own copy; if any is wrong, all take part in finding out what differs."""
        wrong: WeightSyncError | None = None
        try:
            self.proof.compare_scores(expected, self.rollout)
        except WeightSyncError as error:
            wrong = error
        if not any_rank(wrong is not None):
            return
        try:
            if self.offload == "all":
                self.backend.reload()
            names = self.proof.differing(self.backend, self.rollout)
        except RuntimeError as error:  # such as a full device
            names = f"which tensors differ could not be found out: {error}"
        if wrong is not None:
            raise WeightSyncError(f"{wrong}; {names}")

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """Generate with the published weights: see `Generator.submit`."""
        self._require("generate")
        self.rollout.submit(requests, sampling)

    def advance(self) -> Turn:
        """See `Generator.advance`."""
        self._require("generate")
        return self.rollout.advance()

    def abort(self) -> None:
        """See `Generator.abort`."""
        self.rollout.abort()

    def logprobs(self, micro_batches: Sequence[MicroBatch], *, reference: bool = False) -> list[Tensor]:
        """Logprobs by the trainer's present weights, or by the reference policy's."""
        self._require("train")
        return self.backend.logprobs(micro_batches, reference=reference)

    def update(self, mini_batches: Sequence[MiniBatch], loss: LossFunction) -> Metrics:
        """One optimizer update a mini-batch."""
        self._require("train")
        return merge([self.backend.update(mini_batch, loss) for mini_batch in mini_batches])

    def _require(self, phase: Phase) -> None:
        if self.phase != phase:
            raise RuntimeError(
                f"this call belongs to the {phase} phase; the engine is in the {self.phase} phase"
            )


def _give_back_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
