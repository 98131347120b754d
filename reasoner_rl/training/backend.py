"""What every training backend can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reasoner_rl.metrics import Metrics
from reasoner_rl.types import MicroBatch, MiniBatch, TokenOutputs

# (what the policy says, the micro-batch) -> (scalar loss, metrics). The loss is already divided by the global
# denominators of the mini-batch, so gradients of micro-batches and ranks are summed, never averaged.
LossFunction = Callable[[TokenOutputs, MicroBatch], tuple[Tensor, Metrics]]


class TrainBackend(Protocol):
    """Holds the policy's master weights and optimizer, and updates them."""

    @property
    def device(self) -> torch.device:
        """Where micro-batches must be."""
        ...

    def logprobs(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        reference: bool = False,
        temperature: float | None = None,
    ) -> list[Tensor]:
        """Return each micro-batch's response logprobs [N] float32, without gradient.

        ``reference``: by the frozen reference policy instead of the present one. ``temperature``: another than that of
        the sampling.
        """
        ...

    def update(self, mini_batch: MiniBatch, loss: LossFunction) -> Metrics:
        """Sum gradients over the micro-batches, clip, make one optimizer step and one schedule step.

        Returns the loss's metrics with ``train/grad_norm`` (before clipping) and ``train/lr``.
        """
        ...

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Stream full tensors under the names of a Hugging Face checkpoint. Collective: every rank must exhaust it."""
        ...

    def offload_optimizer(self) -> None:
        """Move the optimizer's state to host memory. On a CPU there is nothing to move."""
        ...

    def offload_weights(self) -> None:
        """Move the weights to host memory."""
        ...

    def reload(self) -> None:
        """Bring back what was moved to host memory."""
        ...

    def save(self, folder: Path) -> None:
        """Write model, optimizer, schedule and random state into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; training then continues bit for bit on the same machine and layout."""
        ...

    def export_hf(self, folder: Path) -> None:
        """Write a checkpoint that transformers and vLLM load."""
        ...
