"""Batches of examples that exist already, in an order that is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.types import Example, TrainSample


class ExampleStream:
    """Implements `reasoner_rl.algorithms.base.Examples`: an endless, ordered stream."""

    def __init__(self, examples: Sequence[Example], sampler: OrderedSampler) -> None:
        self._examples, self._sampler = examples, sampler

    def take(self, count: int) -> list[TrainSample]:
        """The samples of the next examples; each example is a group of its own."""
        chosen = [self._examples[index] for index in self._sampler.take(count)]
        return [sample.replace(group=number) for number, example in enumerate(chosen) for sample in example]

    def state(self) -> dict[str, Any]:
        """The position in the order."""
        return self._sampler.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position. Raises ConfigError if it is of other examples, or another order."""
        self._sampler.restore(state)


class ExampleSource:
    """Implements `Source`: the next examples of a stream."""

    generates = False

    def __init__(self, stream: ExampleStream, examples_per_step: int) -> None:
        self._stream, self._per_step = stream, examples_per_step

    def next(self, step: int, version: int) -> StepBatch:
        """See `Source.next`."""
        del step, version
        return StepBatch(self._stream.take(self._per_step))

    def end(self) -> str | None:
        """Examples never end: the recipe says how many steps are made."""
        return None

    def pause(self) -> None:
        """See `Source.pause`; nothing is ever in flight."""

    def before_new_weights(self) -> None:
        """See `Source.before_new_weights`; nothing is ever in flight."""

    def advance(self) -> None:
        """See `Source.advance`; nothing is generated."""

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return self._stream.state()

    def save(self, folder: Path, step: int) -> None:
        """See `Source.save`; the `state` is all there is."""

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """See `Source.restore`."""
        del folder
        self._stream.restore(state)
