"""The hybrid engine: one training backend and one rollout engine that take turns on the same device.

    generate phase --begin_training()--> train phase --publish(version)--> generate phase

Every phase change is made here and nowhere else. Generating while training, or training while generating, raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.rollout.engine import GenerationRequest, RolloutEngine
from reasoner_rl.training.backend import LossFunction, TrainBackend
from reasoner_rl.types import MicroBatch, MiniBatch, Rollout

Phase = Literal["train", "generate"]


class HybridEngine:
    """Owns both engines. Starts in the train phase: nothing can be generated before weights were published."""

    def __init__(self, backend: TrainBackend, rollout: RolloutEngine) -> None:
        self.backend = backend
        self.rollout = rollout
        self.phase: Phase = "train"
        rollout.sleep()

    def begin_training(self) -> None:
        """Put the rollout engine to sleep; does nothing in the train phase."""
        if self.phase == "generate":
            self.rollout.sleep()
            self.phase = "train"

    def publish(self, version: int) -> None:
        """Wake the rollout engine and give it the trainer's weights, as policy ``version``."""
        self.begin_training()
        self.rollout.wake()
        self.rollout.load_weights(self.backend.full_weights(), version)
        self.phase = "generate"

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        sampling: SamplingConfig,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Generate with the published weights."""
        self._require("generate")
        return self.rollout.generate(requests, sampling, progress)

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
