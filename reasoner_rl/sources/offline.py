"""Batches of examples that exist already, in an order that is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.types import TrainSample


class ExampleSource:
    """Implements `Source`: the next examples of an endless, ordered stream."""

    generates = False

    def __init__(
        self, examples: Sequence[TrainSample], sampler: OrderedSampler, examples_per_step: int
    ) -> None:
        self._examples, self._sampler, self._per_step = examples, sampler, examples_per_step

    def next(self, step: int, version: int) -> StepBatch:
        """See `Source.next`; each example is a group of its own."""
        del step, version
        chosen = [self._examples[index] for index in self._sampler.take(self._per_step)]
        return StepBatch([dataclasses.replace(example, group=n) for n, example in enumerate(chosen)])

    def end(self) -> str | None:
        """Examples never end: the recipe says how many steps are made."""
        return None

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return self._sampler.state()

    def save(self, folder: Path, step: int) -> None:
        """See `Source.save`; the `state` is all there is."""

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """See `Source.restore`."""
        del folder
        self._sampler.restore(state)
