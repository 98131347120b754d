"""Weights on their way from workers that train to workers that only generate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Bucket = list[tuple[str, Tensor]]  # whole tensors under their Hugging Face names
BUCKET_BYTES = 1 << 28  # a bucket is sent when it holds so much


@dataclass(frozen=True, slots=True)
class SentWeights:
    """The policy's weights as they were sent."""

    version: int
    expected: list[float]  # what the trainer says of the text by which a sync is checked
    buckets: tuple[Any, ...]  # names for `Bucket`s, for a transport to fetch them by


@dataclass(frozen=True, slots=True)
class ReceivedWeights:
    """Weights that were sent, as often as they are asked for."""

    sent: SentWeights
    fetch: Callable[[Any], Bucket]

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors under their Hugging Face names, one bucket in memory at a time."""
        for bucket in self.sent.buckets:
            yield from self.fetch(bucket)


def in_buckets(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Bucket]:
    """Whole tensors together, until they make `BUCKET_BYTES`."""
    bucket, size = Bucket(), 0
    for name, tensor in tensors:
        bucket.append((name, tensor))
        size += tensor.nbytes
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
