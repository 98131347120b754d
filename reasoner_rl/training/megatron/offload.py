"""Moving what Megatron's buffers hold off the device and back.

Weights and gradients are views of large buffers, and the optimizer's are views of those again. So it is the storage
that is emptied and filled anew, and all views stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, UntypedStorage

# Copies go into pinned host memory, which is fast. Torch rounds each allocation of it up to a power of two. So storage
# is copied in pieces of this size, and only the last one takes more than it holds.
_PIECE_BYTES = 2**28


class Offload:
    """The storage of some tensors, on the device or in host memory.

    Copies may still be on their way when a method returns: synchronise before using what they wrote.
    """

    def __init__(self, *, keep: bool = True) -> None:
        """keep: whether what the storage holds is wanted back; of gradients between updates it is not."""
        self._keep = keep
        self._moved: list[tuple[UntypedStorage, int, list[Tensor]]] = []

    def move(self, tensors: Iterable[Tensor]) -> None:
        """Free the storage of all ``tensors``, which may share it. Does nothing if that was done already."""
        if self._moved:
            return
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.numel()}
        for storage in storages.values():
            kept = [_to_host(piece) for piece in _pieces(storage)] if self._keep else []
            self._moved.append((storage, storage.nbytes(), kept))
            storage.resize_(0)

    def bring_back(self) -> None:
        """Give the tensors their storage again."""
        for storage, size, kept in self._moved:
            storage.resize_(size)
            if kept:
                for piece, content in zip(_pieces(storage), kept, strict=True):
                    piece.copy_(content, non_blocking=True)
        self._moved.clear()


def _pieces(storage: UntypedStorage) -> tuple[Tensor, ...]:
    whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return whole.split(_PIECE_BYTES)


def _to_host(piece: Tensor) -> Tensor:
    if piece.device.type == "cpu":
        return piece.clone()
    return piece.to("cpu", non_blocking=True)  # into pinned memory, which torch keeps for the next time


def gradient_buffers(models: Iterable[torch.nn.Module]) -> list[Tensor]:
    """What the gradients of wrapped parts of the model are views of."""
    return [
        buffer.grad_data
        for model in models
        for buffer in [*model.buffers, *model.expert_parallel_buffers]  # type: ignore[misc]
    ]
