"""Whole tensors under Hugging Face names into FSDP2's shards of weights and of the optimizer's state.

Every rank reads one tensor after the other and keeps its rows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.training.gather import own_rows
from reasoner_rl.training.policy import tensor_names
from reasoner_rl.training.whole import Kind, WholeTensors, kinds_to_load, require_shape


@torch.no_grad()
def fill_shards(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer | None, source: WholeTensors, folder: Path
) -> None:
    """Take weights and, of a model that is trained, the optimizer's state from the checkpoint in ``folder``.

    optimizer: with a state for every parameter that it trains; None if the model is frozen. Raises UserError if a
    tensor is missing or of another shape.
    """
    held, parameters = model.state_dict(), dict(model.named_parameters())
    for name in tensor_names(model):
        _fill(model, name, held[name], source, "master", folder)
    if optimizer is None:
        return
    for kind in kinds_to_load(source, trained=True)[1:]:
        for name, parameter in parameters.items():
            if parameter in optimizer.state:
                _fill(model, name, optimizer.state[parameter][kind], source, kind, folder)
    for state in optimizer.state.values():
        state["step"].fill_(source.updates)


def _fill(
    model: PreTrainedModel, name: str, own: Tensor, source: WholeTensors, kind: Kind, folder: Path
) -> None:
    """Fill one tensor of the model, or of the optimizer's state, of which ``own`` is this rank's shard."""
    whole = torch.empty(own.shape, dtype=own.dtype)
    for part_name, part in as_in_checkpoints(model.config, [(name, whole)]):
        found = source.read(part_name, kind)
        require_shape(part_name, found, part, folder)
        part.copy_(found)
    local = own.to_local() if isinstance(own, DTensor) else own
    local.copy_(own_rows(own, whole))
