"""Weights on their way from workers that train to workers that only generate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Bucket = list[tuple[str, Tensor]]  # whole tensors under their Hugging Face names


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


def in_format(
    tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the number format of their reader; None: as they are."""
    return ((name, tensor if dtype is None else tensor.to(dtype)) for name, tensor in tensors)


def in_buckets(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int) -> Iterator[Bucket]:
    """Whole tensors together, until they have ``bucket_bytes``."""
    bucket, size = Bucket(), 0
    for name, tensor in tensors:
        bucket.append((name, tensor))
        size += tensor.nbytes
        if size >= bucket_bytes:
            yield bucket
            bucket, size = Bucket(), 0
    if bucket:
        yield bucket
