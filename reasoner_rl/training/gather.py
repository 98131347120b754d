"""Whole tensors from the parts that ranks hold: several parts per collective, the next bucket on its way meanwhile.

A bucket is one piece of memory: the parts of several tensors, each in the number format that its reader wants, which
halves what travels to a rollout engine in bfloat16. A cast is elementwise, so casting parts gives what casting the
whole gives, to the bit. While the reader uses the tensors of a bucket, the collective of the next one runs: over NCCL
on its own stream, over gloo in its own thread.

Memory beside the parts themselves: at most two buckets, the own part of one, and one whole tensor. A tensor that is
larger than a bucket is a bucket by itself; of two such tensors that follow each other the second is not begun before
the reader asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

# The name in newer versions of torch, or in older ones.
all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
ALIGNMENT = 16  # bytes; a part begins at a multiple of it, so that it can be seen as numbers of any format


@dataclass(frozen=True, slots=True)
class Transfer:
    """How whole tensors come to every rank.

    dtype: the number format of their reader. Parts are cast to it before they travel, where it is narrower than their
        own; what does not travel comes as it is held.
    bucket_bytes: size of a bucket once it is gathered.
    """

    dtype: torch.dtype | None
    bucket_bytes: int


@dataclass(frozen=True, slots=True)
class Route:
    """Which ranks have what this one needs.

    group: the ranks whose parts make the whole; None: each has the whole.
    stages: the ranks of a pipeline, of which one, ``source`` by its global number, has this part; None: this one has.
    """

    group: dist.ProcessGroup | None = None
    stages: dist.ProcessGroup | None = None
    source: int = 0

    @property
    def ranks(self) -> int:
        """How many parts make the whole."""
        return 1 if self.group is None else self.group.size()

    @property
    def is_local(self) -> bool:
        """Whether nothing travels."""
        return self.group is None and self.stages is None


HERE = Route()


@dataclass(frozen=True, slots=True)
class Part:
    """What a rank holds of a tensor.

    tensor: may have fewer rows than ``shape``, as those of the last ranks may; None where another stage has it.
    shape: of the part of a rank that has most.
    dtype: in which it travels.
    """

    tensor: Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    route: Route

    @property
    def width(self) -> int:
        """Its bytes in a bucket."""
        return -(-math.prod(self.shape) * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT

    @property
    def gathered_bytes(self) -> int:
        """Bytes of all ranks' parts."""
        return self.width * self.route.ranks


def travelling_dtype(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The format in which numbers of the format ``own`` travel to a reader of the format ``wanted``."""
    if wanted is None or not own.is_floating_point or wanted.itemsize >= own.itemsize:
        return own
    return wanted


def plan_buckets(parts: Iterable[Part], bucket_bytes: int) -> list[list[Part]]:
    """Cut parts, in their order, into buckets of one route and at most so many gathered bytes, or of one part."""
    buckets: list[list[Part]] = []
    filled = 0
    for part in parts:
        fits = filled + part.gathered_bytes <= bucket_bytes
        if not buckets or not fits or buckets[-1][0].route != part.route:
            buckets.append([])
            filled = 0
        buckets[-1].append(part)
        filled += part.gathered_bytes
    return buckets


def gather(parts: Sequence[Part], bucket_bytes: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the parts of all ranks of each tensor, [ranks, *shape], in order. Collective: to be exhausted by all.

    Where several ranks have parts, what is yielded is a view of the bucket: copy it, or let go of it before the next.
    """
    buckets = plan_buckets(parts, bucket_bytes)
    following: list[list[Part] | None] = [*buckets[1:], None]
    ahead: _Flight | None = None
    for bucket, after in zip(buckets, following, strict=True):
        tensors = (ahead or _Flight(bucket, device)).arrive()
        ahead = None
        if after is not None and not (_is_large(bucket, bucket_bytes) and _is_large(after, bucket_bytes)):
            ahead = _Flight(after, device)
        yield from tensors


def _is_large(bucket: Sequence[Part], bucket_bytes: int) -> bool:
    return not bucket[0].route.is_local and bucket[0].gathered_bytes > bucket_bytes


class _Flight:
    """A bucket on its way. The first collective that it needs begins at once, a second one when it is to arrive."""

    def __init__(self, bucket: Sequence[Part], device: torch.device) -> None:
        self._bucket, self._route = bucket, bucket[0].route
        self._work: dist.Work | None = None
        if self._route.is_local:
            return
        self._own = _packed(bucket, device)
        if self._route.stages is not None:
            self._work = dist.broadcast(
                self._own, self._route.source, group=self._route.stages, async_op=True
            )
        else:
            self._gather()

    def _gather(self) -> None:
        own, ranks = self._own, self._route.ranks
        self._whole = own.new_empty(ranks * len(own))
        self._work = all_gather(self._whole, own, group=self._route.group, async_op=True)

    def arrive(self) -> list[Tensor]:
        """Wait, on a GPU only the current stream does, and return [ranks, *shape] of each part."""
        if self._work is None:
            return [part.tensor[None] for part in self._bucket if part.tensor is not None]
        self._work.wait()
        if self._route.group is None:
            # Copies, so that a reader that still holds the last one does not hold the bucket.
            return [tensor.clone() for tensor in _unpacked(self._own[None], self._bucket)]
        if self._route.stages is not None:
            self._gather()
            self._work.wait()
        return _unpacked(self._whole.view(self._route.ranks, -1), self._bucket)


def _packed(bucket: Sequence[Part], device: torch.device) -> Tensor:
    """The own parts one after the other, as bytes; where a part is shorter than others' the rest is undefined."""
    flat = torch.empty(sum(part.width for part in bucket), dtype=torch.uint8, device=device)
    start = 0
    for part in bucket:
        if part.tensor is not None:
            length = part.tensor.numel() * part.dtype.itemsize
            flat[start : start + length].view(part.dtype).view(part.tensor.shape).copy_(part.tensor)
        start += part.width
    return flat


def _unpacked(whole: Tensor, bucket: Sequence[Part]) -> list[Tensor]:
    """Views [ranks, *shape] of the parts in ``whole`` [ranks, bytes]."""
    tensors, start = list[Tensor](), 0
    for part in bucket:
        length = math.prod(part.shape) * part.dtype.itemsize
        numbers = whole[:, start : start + length].view(part.dtype)
        tensors.append(numbers.unflatten(1, part.shape))
        start += part.width
    return tensors


def gather_shards(
    tensors: Sequence[tuple[Tensor, torch.dtype | None]], bucket_bytes: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the whole of each of FSDP2's sharded tensors, and other tensors as they are. Collective.

    tensors: each with the number format that is wanted; None: its own.
    """
    parts = [shard_part(tensor, dtype) for tensor, dtype in tensors]
    for (tensor, _), part, shards in zip(tensors, parts, gather(parts, bucket_bytes, device), strict=True):
        yield shards[0] if part.route.is_local else shards.flatten(0, 1)[: len(tensor)]


def shard_part(tensor: Tensor, dtype: torch.dtype | None) -> Part:
    """This rank's shard, which FSDP2 cuts along the first dimension: as many rows on each rank, fewer on the last."""
    if not isinstance(tensor, DTensor):
        return Part(tensor, tuple(tensor.shape), tensor.dtype, HERE)
    mesh, local, dim = tensor.device_mesh, tensor.to_local(), _sharding_dim(tensor)
    if (ranks := mesh.size(dim)) == 1:
        return Part(local, tuple(local.shape), local.dtype, HERE)
    shape = (-(-len(tensor) // ranks), *tensor.shape[1:])
    return Part(local, shape, travelling_dtype(local.dtype, dtype), Route(mesh.get_group(dim)))


def own_rows(tensor: Tensor, whole: Tensor) -> Tensor:
    """The rows of ``whole`` that this rank's shard of ``tensor`` has, a view; all of them where it is no shard."""
    if not isinstance(tensor, DTensor):
        return whole
    mesh, dim = tensor.device_mesh, _sharding_dim(tensor)
    rows = -(-len(tensor) // mesh.size(dim))
    return whole[mesh.get_local_rank(dim) * rows :][: len(tensor.to_local())]


def _sharding_dim(tensor: DTensor) -> int:
    """The dimension of the mesh along which FSDP2 cuts a tensor; along another there may be copies."""
    [dim] = [dim for dim, placement in enumerate(tensor.placements) if isinstance(placement, Shard)]
    assert tensor.placements[dim] == Shard(0)
    return dim
