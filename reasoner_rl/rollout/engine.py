"""What every rollout engine can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.types import Rollout


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Draw ``samples`` responses to one prompt."""

    prompt_ids: tuple[int, ...]
    samples: int
    seed: int  # response j is drawn from its own random stream (seed, j), whatever else is in the batch


class RolloutEngine(Protocol):
    """Generates responses with a copy of the policy's weights.

    An engine is awake or asleep. Asleep it holds as little device memory as it can, and `generate` raises
    RuntimeError; it wakes with `wake`, after which weights must be loaded before generating if sleeping lost them.
    """

    @property
    def policy_version(self) -> int:
        """Version passed to the last `load_weights`."""
        ...

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        sampling: SamplingConfig,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Return the responses of each request, in order. ``progress`` is told how many more responses are finished.

        A Rollout's logprobs are those of the distribution sampled from, after temperature, top-k and top-p.
        """
        ...

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over full tensors under their Hugging Face names. Raises ValueError naming what does not fit."""
        ...

    def sleep(self) -> None:
        """Give memory back to training."""
        ...

    def wake(self) -> None:
        """Get ready to load weights and generate."""
        ...
