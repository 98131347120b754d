"""Whole tensors under Hugging Face names into what this rank has of them: its weights and its optimizers' state.

Every rank reads what its stage holds, a tensor at a time, and keeps its part. mbridge's rules rename and divide weights
and the optimizer's state alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from megatron.core.utils import unwrap_model
from torch import Tensor

from reasoner_rl.training.megatron.stepped import Stretch, inner_optimizers, stepped_tensors, stretches_of
from reasoner_rl.training.megatron.stream import EXPERTS
from reasoner_rl.training.whole import Kind, WholeTensors, kinds_to_load, require_shape


@dataclass(frozen=True, slots=True)
class _Slot:
    """What an optimizer has of a parameter of this rank."""

    optimizer: int
    number: int  # in the optimizer's state dict
    stretch: Stretch
    stepped: Tensor  # the numbers themselves
    moments: dict[Kind, Tensor] = field(default_factory=dict)

    def cut(self, parameter: Tensor) -> Tensor:
        """Its stretch of a tensor that is laid out as the parameter is."""
        return parameter.flatten()[self.stretch.start : self.stretch.stop].view_as(self.stepped)


@torch.no_grad()
def load_whole(
    bridge: Any, models: Sequence[Any], optimizer: Any, source: WholeTensors, folder: Path
) -> None:
    """Take weights and, of a model that is trained, the optimizer's state from the checkpoint in ``folder``.

    optimizer: Megatron's; None if the model is frozen. Raises UserError if a tensor is missing or of another shape.
    """
    slots = [] if optimizer is None else list(_slots(optimizer, models))
    by_parameter: dict[tuple[int, str], list[_Slot]] = {}
    for slot in slots:
        by_parameter.setdefault((slot.stretch.chunk, slot.stretch.name), []).append(slot)
    for kind in kinds_to_load(source, trained=optimizer is not None):
        for place, parameter, part in _parts(bridge, models, source, kind, folder):
            if kind == "master":
                parameter.copy_(part)
            for slot in by_parameter.get(place, ()):
                if kind == "master":
                    slot.stepped.copy_(slot.cut(part))
                else:
                    slot.moments[kind] = slot.cut(part).clone()  # so that the rest of the tensor can go
    for number, inner in enumerate(inner_optimizers(optimizer) if optimizer is not None else ()):
        _set_state(inner, [slot for slot in slots if slot.optimizer == number], source.updates)


def _slots(optimizer: Any, models: Sequence[Any]) -> Iterator[_Slot]:
    inners = zip(inner_optimizers(optimizer), stretches_of(optimizer, models), strict=True)
    for index, (inner, stretches) in enumerate(inners):
        for number, (stretch, stepped) in enumerate(zip(stretches, stepped_tensors(inner), strict=True)):
            yield _Slot(index, number, stretch, stepped)


def _parts(
    bridge: Any, models: Sequence[Any], source: WholeTensors, kind: Kind, folder: Path
) -> Iterator[tuple[tuple[int, str], Tensor, Tensor]]:
    """Yield each parameter of this rank, with its chunk and name, and what the checkpoint has for it."""
    exact = copy.copy(bridge)
    exact.dtype = None  # or mbridge would round what it converts to the model's
    for chunk, model in enumerate(map(unwrap_model, models)):
        names = bridge._weight_name_mapping_mcore_local_to_global(model)
        for local, parameter in model.named_parameters():
            hf_names = exact._weight_name_mapping_mcore_to_hf(names[local])
            whole = exact._weight_to_mcore_format(local, [source.read(name, kind) for name in hf_names])
            experts = EXPERTS in local
            ranks, rank = (
                (bridge.mpu.etp_size, bridge.mpu.etp_rank)
                if experts
                else (bridge.mpu.tp_size, bridge.mpu.tp_rank)
            )
            part = exact._weight_split_across_tp(local, whole, parameter, ranks)[rank]
            require_shape(" and ".join(hf_names), part, parameter, folder)
            yield (chunk, local), parameter, part


def _set_state(inner: Any, slots: Sequence[_Slot], updates: int) -> None:
    """Give a torch optimizer its moments and the number of updates, which TransformerEngine's counts per group."""
    state: dict[int, dict[str, Tensor]] = {
        slot.number: {str(kind): moment for kind, moment in slot.moments.items()}
        for slot in slots
        if slot.moments
    }
    groups = inner.state_dict()["param_groups"]
    if isinstance(inner, torch.optim.AdamW):
        for moments in state.values():
            moments["step"] = torch.tensor(float(updates))
    else:
        groups = [{**group, "step": updates} for group in groups]
    inner.load_state_dict({"state": state, "param_groups": groups})
