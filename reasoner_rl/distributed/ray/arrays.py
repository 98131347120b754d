"""Tensors as numpy arrays, which Ray's store of objects takes and gives without a further copy."""

from __future__ import annotations

import warnings

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

# Name, bytes, number format and shape of a tensor.
Array = tuple[str, NDArray[numpy.uint8], torch.dtype, torch.Size]


def as_arrays(tensors: list[tuple[str, Tensor]]) -> list[Array]:
    """The bytes of tensors, which are copied from a device if they are on one."""
    return [
        (name, tensor.contiguous().flatten().view(torch.uint8).cpu().numpy(), tensor.dtype, tensor.shape)
        for name, tensor in tensors
    ]


def as_tensors(arrays: list[Array]) -> list[tuple[str, Tensor]]:
    """The tensors again. They share the arrays' memory, which may be read-only: they must not be changed."""
    return [(name, _tensor(array).view(dtype).view(shape)) for name, array, dtype, shape in arrays]


def _tensor(array: NDArray[numpy.uint8]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)
