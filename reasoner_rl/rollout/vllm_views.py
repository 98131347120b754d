"""vLLM's weights under the names and shapes of Hugging Face, as views of the same storage.

vLLM fuses matrices that read the same input (q, k and v; gate and up) into one, row block after row block, and pads the
vocabulary at its end. So every Hugging Face tensor is a run of rows of one of vLLM's, unless the model is split over
GPUs or quantised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reasoner_rl.errors import ConfigError

KEY = "rollout.engine.share_weights"


def hugging_face_views(
    held: Mapping[str, Tensor], fused: Mapping[str, Sequence[str]], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Return Hugging Face name -> view of the tensor that holds it.

    held: vLLM's parameters by vLLM's names. fused: name of a fused module -> names of its parts, in order (a vLLM
    model's ``packed_modules_mapping``). shapes: of every tensor that is wanted.

    Raises ConfigError naming a tensor that has no such view.
    """
    views: dict[str, Tensor] = {}
    for name, tensor in held.items():
        start = 0
        for part in _parts(name, fused):
            if part not in shapes:
                raise ConfigError(f"{KEY}: vLLM holds {name}, and the trainer has no {part}")
            rows = shapes[part][0]
            views[part] = tensor[start : start + rows]
            start += rows
    for name, shape in shapes.items():
        if name not in views or views[name].shape != shape:
            found = tuple(views[name].shape) if name in views else "nothing"
            raise ConfigError(f"{KEY}: of {name} {tuple(shape)} vLLM holds {found}")
    return views


def _parts(name: str, fused: Mapping[str, Sequence[str]]) -> list[str]:
    modules = name.split(".")
    for place, module in enumerate(modules):
        if module in fused:
            return [".".join([*modules[:place], part, *modules[place + 1 :]]) for part in fused[module]]
    return [name]
