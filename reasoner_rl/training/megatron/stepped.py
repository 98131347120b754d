"""Which stretch of which parameter each tensor is that Megatron's optimizers change.

That is the parameter itself, or its float32 copy. The distributed optimizer has a stretch of either, flattened: it
divides one buffer of all parameters evenly among the replicas, wherever a parameter begins or ends in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.utils import unwrap_model
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stretch:
    """Numbers ``start`` to ``stop`` of a flattened parameter of this rank."""

    chunk: int  # of the virtual stages
    name: str  # on this rank
    start: int
    stop: int


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The torch optimizers inside Megatron's."""
    return [each.optimizer for each in _chained(optimizer)]


def stepped_tensors(inner: Any) -> list[Tensor]:
    """What an inner optimizer changes, in the order of its state dict's numbers."""
    return [tensor for group in inner.param_groups for tensor in group["params"]]


def stretches_of(optimizer: Any, models: Sequence[Any]) -> list[list[Stretch]]:
    """For each inner optimizer, what its `stepped_tensors` are."""
    names = {
        id(parameter): (chunk, name)
        for chunk, model in enumerate(map(unwrap_model, models))
        for name, parameter in model.named_parameters()
    }
    return [
        [Stretch(*names[id(parameter)], start, stop) for parameter, start, stop in _stepped_parameters(each)]
        for each in _chained(optimizer)
    ]


def _chained(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _stepped_parameters(optimizer: Any) -> Iterator[tuple[Tensor, int, int]]:
    if isinstance(optimizer, DistributedOptimizer):
        # Its constructor puts a group's parameters in float32 before the copies of the others.
        groups = zip(optimizer.model_fp32_groups, optimizer.model_float16_groups, strict=True)
        for parameter in (parameter for group in groups for half in group for parameter in half):
            own = optimizer._get_model_param_range_map(parameter)["param"]
            yield parameter, own.start, own.end
        return
    parameters = (
        [p for group in [*optimizer.float16_groups, *optimizer.fp32_from_fp32_groups] for p in group]
        if hasattr(optimizer, "float16_groups")
        else stepped_tensors(optimizer.optimizer)
    )
    by_stepped = {id(getattr(parameter, "main_param", parameter)): parameter for parameter in parameters}
    for tensor in stepped_tensors(optimizer.optimizer):
        yield by_stepped[id(tensor)], 0, tensor.numel()
