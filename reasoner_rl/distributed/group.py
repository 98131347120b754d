"""What the driver needs of its workers; the loops do not know whether they are in process or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.rollout.engine import GenerationRequest
from reasoner_rl.types import MiniBatch, Rollout, TrainSample


class Generator(Protocol):
    """Anything that answers prompts: a worker group, or a rollout engine by itself."""

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        sampling: SamplingConfig,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Responses to each request, in order."""
        ...


class WorkerGroup(Generator, Protocol):
    """All workers of a run, spoken to as one. `Worker` is a group of one, in this process."""

    def logprobs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> list[Tensor]:
        """Response logprobs [R] of each sample, in order, by the trainer's or the reference policy's weights."""
        ...

    def update(self, mini_batches: Sequence[MiniBatch]) -> Metrics:
        """One optimizer update a mini-batch."""
        ...

    def publish_weights(self, version: int) -> Metrics:
        """Give the trainer's weights to generation. Returns what the phase changes since the last call cost."""
        ...

    def save(self, folder: Path) -> None:
        """Write the training state into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Restore the training state."""
        ...

    def export(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint."""
        ...
