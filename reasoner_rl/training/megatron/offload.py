"""Moving what Megatron's buffers hold off the device and back.

Weights and gradients are views of large buffers, and the optimizer's are views of those again. So it is the storage
that is emptied and filled anew, and all views stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, UntypedStorage


class Offload:
    """The storage of some tensors, on the device or in host memory."""

    def __init__(self, *, keep: bool = True) -> None:
        """keep: whether what the storage holds is wanted back; of gradients between updates it is not."""
        self._keep = keep
        self._moved: list[tuple[UntypedStorage, int, UntypedStorage | None]] = []

    def move(self, tensors: Iterable[Tensor]) -> None:
        """Free the storage of all ``tensors``, which may share it. Does nothing if that was done already."""
        if self._moved:
            return
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.numel()}
        for storage in storages.values():
            self._moved.append((storage, storage.nbytes(), _copy(storage) if self._keep else None))
            storage.resize_(0)

    def bring_back(self) -> None:
        """Give the tensors their storage again."""
        for storage, size, kept in self._moved:
            storage.resize_(size)
            if kept is not None:
                storage.copy_(kept)
        self._moved.clear()


def _copy(storage: UntypedStorage) -> UntypedStorage:
    return storage.clone() if storage.device.type == "cpu" else storage.cpu()


def gradient_buffers(models: Iterable[torch.nn.Module]) -> list[Tensor]:
    """What the gradients of wrapped parts of the model are views of."""
    return [
        buffer.grad_data
        for model in models
        for buffer in [*model.buffers, *model.expert_parallel_buffers]  # type: ignore[misc]
    ]
