"""The weights in a training checkpoint, read in one process, whatever the number of ranks that wrote it.

Optimizer states are neither read nor held: FSDP2's checkpoints are read tensor by tensor, and of Megatron's files only
the pages that hold weights are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from transformers import PreTrainedModel

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig
from reasoner_rl.errors import UserError, require_package
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.training.backend import Head
from reasoner_rl.training.policy import is_adapter, load_causal_lm, merged_weights, prepare, tensor_names
from reasoner_rl.training.value import load_critic

# The names in FSDP2's checkpoints: of the part that is no optimizer state, and of the model inside Policy and Critic.
_PREFIX = "model.model."
_ATTENTION = "eager"  # of a model whose weights alone are of interest


def saved_weights(
    folder: Path, model: ModelConfig, backend: BackendConfig, head: Head = "policy"
) -> Iterator[tuple[str, Tensor]]:
    """Stream what `TrainBackend.full_weights` gave when `TrainBackend.save` wrote ``folder``, on the CPU.

    Names are those of a Hugging Face checkpoint; LoRA's adapters are merged. Nothing here is collective. Raises
    MissingExtraError where Megatron's parts are not installed, and UserError if a tensor is not in the checkpoint.
    """
    if not isinstance(backend, FsdpBackendConfig):
        for package, name in (("megatron.core", "megatron-core"), ("mbridge", "mbridge")):
            require_package(package, name, "megatron", "training.backend.kind=megatron")
        from reasoner_rl.training.megatron.saved import megatron_weights

        yield from megatron_weights(folder, model, backend, head)
        return
    shell, saved = _shell(model, head), _SavedTensors(folder)
    merged = merged_weights(tensor_names(shell), partial(map, saved.read), model.lora)
    yield from as_in_checkpoints(shell.config, merged)


def saved_adapters(folder: Path, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Stream the tensors of LoRA's adapters of a policy that FSDP2 has saved, under the names of `inject_adapter`."""
    saved = _SavedTensors(folder)
    for name in tensor_names(_shell(model, "policy")):
        if is_adapter(name):
            yield name, saved.read(name)


def _shell(model: ModelConfig, head: Head) -> PreTrainedModel:
    """The architecture as it was trained, adapters included, without weights."""
    if head == "policy":
        shell = load_causal_lm(model, torch.float32, _ATTENTION, empty=True)
    else:
        shell = load_critic(model, _ATTENTION, head, empty=True)
    prepare(shell, model)
    return shell


class _SavedTensors:
    """The tensors of a checkpoint that FSDP2 has saved, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "weights"
        self._described: Mapping[str, object] = (
            FileSystemReader(self._folder).read_metadata().state_dict_metadata
        )

    def read(self, name: str) -> Tensor:
        """The whole tensor of this name of the model."""
        described = self._described.get(_PREFIX + name)
        if not isinstance(described, TensorStorageMetadata):
            raise UserError(f"{self._folder} holds no tensor {name}")
        tensor = torch.empty(described.size, dtype=described.properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is intended
            load_distributed(
                {_PREFIX + name: tensor}, checkpoint_id=self._folder, no_dist=not dist.is_initialized()
            )
        return tensor
