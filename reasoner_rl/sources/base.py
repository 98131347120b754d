"""Where a training step's samples come from. A source knows nothing of the trainer, and of models only the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reasoner_rl.metrics import Metrics
from reasoner_rl.types import ScoredGroup, TrainSample


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one training step trains on."""

    samples: list[TrainSample]  # those of a group side by side; none: nothing can be trained on
    metrics: Metrics = field(default_factory=dict)
    generated_tokens: int = 0
    groups: list[ScoredGroup] = field(default_factory=list)  # that samples were made of, in their order
    dropped: list[ScoredGroup] = field(default_factory=list)  # generated, and not trained on
    skipped_because: str = ""  # why there are no samples, for people
    warning: str = ""  # for people, about the step's samples


class Source(Protocol):
    """Makes one batch after another; what it must remember from step to step belongs into checkpoints."""

    generates: bool  # whether it needs the present weights published to the generation pool

    def next(self, step: int, version: int) -> StepBatch:
        """The batch of ``step``, for a policy of this version. Raises UserError if it cannot be made."""
        ...

    def end(self) -> str | None:
        """Why no more batches are of use, for people; None if they are."""
        ...

    def pause(self) -> None:
        """Take back what is in flight, so that others can generate, and `state` and `save` hold everything."""
        ...

    def before_new_weights(self) -> None:
        """Take back what may not be in flight when what generates gets other weights."""
        ...

    def advance(self) -> None:
        """Take up what was generated while something else is waited for; see `Transport.meanwhile`."""
        ...

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint, as JSON can hold it."""
        ...

    def save(self, folder: Path, step: int) -> None:
        """Write what else must be in the checkpoint of ``step`` into its folder, such as responses."""
        ...

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Continue from a saved `state` and what `save` wrote into the checkpoint's ``folder``."""
        ...
