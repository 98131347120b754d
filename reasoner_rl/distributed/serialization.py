"""How messages between driver and workers are serialised: per-token columns as buffers, which pickle does not copy.

torch pickles a tensor as a file in its own format, about 100 microseconds each, and `array` is pickled by way of bytes.
Here both are given to pickle's protocol 5 as buffers (PEP 574), which Ray writes into its object store as they are. The
samples of a share are sent column by column, and a column that is one value throughout, such as a loss mask, as that
value. What is rebuilt has memory of its own: it can be written to, and nothing keeps the
object store's memory in use.

`REDUCERS` is by exact type. A transport registers them, and pickle finds such objects within whatever is sent.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy
import torch
from torch import Tensor

from reasoner_rl.batching.plan import Share
from reasoner_rl.types import Rollout, TrainSample

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]  # what makes an object again, and its arguments


# What Tensor.numpy raises of a tensor that has a gradient, is on a device or has a number format of torch's own.
_NOT_NUMPYS = (TypeError, RuntimeError)


def _reduce_tensor(tensor: Tensor) -> Reduced:
    bits = tensor
    if tensor.dtype == torch.bfloat16 and tensor.is_cpu and not tensor.requires_grad:
        bits = tensor.view(torch.int16)  # numbers that numpy has, of the same width
    try:
        numbers = bits.numpy()
    except _NOT_NUMPYS:
        reduced: Reduced = tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return reduced
    return _shaped, (tensor.dtype, numbers.shape, _buffer(numpy.ascontiguousarray(numbers)))


_buffer: Callable[[Any], pickle.PickleBuffer] = pickle.PickleBuffer  # which takes whatever has a buffer


def _shaped(dtype: torch.dtype, shape: Sequence[int], data: Any) -> Tensor:
    return _tensor(dtype, data).reshape(shape)


def _tensor(dtype: torch.dtype, data: Any) -> Tensor:
    copy = bytearray(data)
    return torch.frombuffer(copy, dtype=dtype) if copy else torch.empty(0, dtype=dtype)


def _reduce_array(numbers: array[Any]) -> Reduced:
    return _array, (numbers.typecode, pickle.PickleBuffer(numbers))


def _array(typecode: str, data: Any) -> array[Any]:
    numbers = array(typecode)
    numbers.frombytes(pickle.PickleBuffer(data).raw())  # Ray gives a buffer of numbers and not of bytes
    return numbers


_OF_ROLLOUT = attrgetter(*(field.name for field in dataclasses.fields(Rollout)))


def _reduce_rollout(rollout: Rollout) -> Reduced:
    token_ids, logprobs, *others = _OF_ROLLOUT(rollout)
    return _rollout, (pickle.PickleBuffer(token_ids), pickle.PickleBuffer(logprobs), *others)


def _rollout(token_ids: Any, logprobs: Any, *others: Any) -> Rollout:
    return Rollout(_array("i", token_ids), _array("f", logprobs), *others)


# What is sent of a field; the type of its tensors, if it is tensors; their lengths, if each is one value throughout.
Column = tuple[Sequence[Any], torch.dtype | None, Sequence[int] | None]

_FIELDS = [field.name for field in dataclasses.fields(TrainSample)]
_OF_SAMPLE = attrgetter(*_FIELDS)
_KIND, _STRIDES = attrgetter("dtype", "ndim"), attrgetter("strides")  # of numpy's arrays


def _reduce_share(share: Share) -> Reduced:
    columns = [_column(values) for values in zip(*map(_OF_SAMPLE, share.samples), strict=True)]
    return _share, (columns, share.sample_indices, share.cuts, share.denominators)


def _column(values: Sequence[Any]) -> Column:
    """One field of all samples: as it is, or the buffers of its tensors [n], or each one's only value and length."""
    if not isinstance(values[0], Tensor):
        return values, None, None
    try:
        arrays: list[numpy.ndarray[Any, Any]] = list(map(Tensor.numpy, values))
    except _NOT_NUMPYS:
        return values, None, None
    dtype = values[0].dtype
    if set(map(_KIND, arrays)) != {(arrays[0].dtype, 1)}:
        return values, None, None
    strides = set(map(_STRIDES, arrays))
    if strides == {(0,)}:
        return [each[0].item() if len(each) else 0 for each in arrays], dtype, [len(each) for each in arrays]
    if strides != {(dtype.itemsize,)}:
        arrays = list(map(numpy.ascontiguousarray, arrays))
    return list(map(_buffer, arrays)), dtype, None


def _share(columns: Sequence[Column], *others: Any) -> Share:
    fields = zip(*[_values(*column) for column in columns], strict=True)
    return Share(tuple(TrainSample(**dict(zip(_FIELDS, each, strict=True))) for each in fields), *others)


def _values(sent: Sequence[Any], dtype: torch.dtype | None, lengths: Sequence[int] | None) -> Sequence[Any]:
    """What `_column` was given."""
    if dtype is None:
        return sent
    if lengths is None:
        return [_tensor(dtype, data) for data in sent]
    return [
        torch.full((), value, dtype=dtype).expand(length) for value, length in zip(sent, lengths, strict=True)
    ]


REDUCERS: Mapping[type, Callable[[Any], Reduced]] = {
    Tensor: _reduce_tensor,
    array: _reduce_array,
    Rollout: _reduce_rollout,
    Share: _reduce_share,
}


def rebuild(reduced: Reduced) -> object:
    """The object again, for transports that keep what makes it and its arguments together."""
    function, arguments = reduced
    return function(*arguments)


class _Pickler(pickle.Pickler):
    dispatch_table = REDUCERS


def dumps(message: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A message as a transport writes it: pickle's bytes, and the buffers whose raw bytes `pickle.loads` needs too."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(message)
    return file.getvalue(), buffers
