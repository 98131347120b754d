"""Whole tensors of a Megatron model under Hugging Face names, gathered in buckets.

mbridge's own `export_weights` makes several collectives per tensor, of objects too. Here ranks tell each other once
what their stages hold; then parts travel as `training.gather` says, and mbridge's rules join and rename them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core.utils import unwrap_model
from torch import Tensor

from reasoner_rl.training.gather import Part, Route, Transfer, gather, travelling_dtype

EXPERTS = ".mlp.experts.linear_fc"
Division = Literal["divided", "experts", "whole"]


@dataclass(frozen=True, slots=True)
class _Described:
    """A parameter of a stage; ranks of a stage have parts of the same description.

    name: in the whole model, but of an expert the number is that on its rank.
    dim: along which tensor-parallel ranks divide it; None: they do not.
    """

    stage: int
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    dim: int | None

    @property
    def division(self) -> Division:
        """How ranks of the stage divide it."""
        if EXPERTS in self.name:
            return "experts"
        return "whole" if self.dim is None else "divided"


def stream_in_buckets(
    bridge: Any, models: Sequence[Any], transfer: Transfer, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield whole tensors, each once, without padding. Collective: every rank must exhaust it."""
    own = dict(_described(bridge, models))
    everything = _needed(bridge, _of_all_stages(bridge, list(own)))
    routes = {
        (stage, division): _route(bridge, stage, division)
        for stage in range(bridge.mpu.pp_size)
        for division in ("divided", "experts", "whole")
    }
    parts = [
        Part(
            own.get(each),
            each.shape,
            travelling_dtype(each.dtype, transfer.dtype),
            routes[each.stage, each.division],
        )
        for each in everything
    ]
    for each, shards in zip(everything, gather(parts, transfer.bucket_bytes, device), strict=True):
        for name, whole in _joined(bridge, each, list(shards)):
            names, tensors = bridge._weight_to_hf_format(name, whole)
            yield from zip(names, tensors, strict=True)


def _described(bridge: Any, models: Sequence[Any]) -> Iterator[tuple[_Described, Tensor]]:
    for model in map(unwrap_model, models):
        names = bridge._weight_name_mapping_mcore_local_to_global(model, consider_ep=False)
        for local, parameter in model.named_parameters():
            divided = getattr(parameter, "tensor_model_parallel", False)
            dim = int(parameter.partition_dim) if divided else None
            shape = tuple(parameter.shape)
            yield (
                _Described(bridge.mpu.pp_rank, names[local], shape, parameter.dtype, dim),
                parameter.detach(),
            )


def _of_all_stages(bridge: Any, own: list[_Described]) -> list[_Described]:
    """What all stages hold, by stage and then by division, so that neighbours travel together."""
    stages: list[list[_Described]] = [[] for _ in range(bridge.mpu.pp_size)]
    dist.all_gather_object(stages, own, group=bridge.mpu.pp_group)
    return [each for stage in stages for each in sorted(stage, key=lambda described: described.division)]


def _needed(bridge: Any, everything: Sequence[_Described]) -> list[_Described]:
    """Without the second copy of tied embeddings, which are on the first and the last stage."""
    needed: list[_Described] = []
    seen: set[str] = set()
    for each in everything:
        if each.division != "experts":
            names = set(bridge._weight_name_mapping_mcore_to_hf(each.name))
            if names <= seen:
                continue
            seen |= names
        needed.append(each)
    return needed


def _route(bridge: Any, stage: int, division: Division) -> Route:
    mpu = bridge.mpu
    group: dist.ProcessGroup | None = None
    if division == "experts":
        # Experts are divided among ranks, or each among tensor-parallel ranks, never both: see `moe.sizes`.
        group = mpu.ep_group if mpu.ep_size > 1 else mpu.etp_group if mpu.etp_size > 1 else None
    elif division == "divided" and mpu.tp_size > 1:
        group = mpu.tp_group
    if mpu.pp_size == 1:
        return Route(group)
    return Route(group, mpu.pp_group, dist.get_global_rank(mpu.pp_group, stage))


def _joined(bridge: Any, each: _Described, shards: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors under Megatron's names: one, or of experts that ranks divide, one per rank."""
    if each.division == "whole":
        yield each.name, shards[0]
        return
    divided = SimpleNamespace(tensor_model_parallel=True, partition_dim=each.dim)
    if each.division == "divided" or bridge.mpu.ep_size == 1:
        yield each.name, bridge._weight_merge_across_tp(each.name, shards, divided)
        return
    stem, _, expert = each.name.rpartition("weight")
    per_rank = bridge.config.num_moe_experts // bridge.mpu.ep_size
    for place, shard in enumerate(shards):
        name = f"{stem}weight{place * per_rank + int(expert)}"
        # A copy: the shard is a view of its bucket.
        yield name, bridge._weight_merge_across_tp(name, [shard.clone()], divided)
