"""What is in a training checkpoint, read in one process tensor by tensor, whatever backend and ranks wrote it.

Nothing else is read or held: FSDP2's checkpoints are asked for one tensor after the other, and of Megatron's files only
the pages are read that hold what is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import PreTrainedModel

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError, UserError, require_package
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.training.backend import Head
from reasoner_rl.training.checked_files import CheckedReader, load_checked
from reasoner_rl.training.policy import is_adapter, load_causal_lm, merged_weights, prepare, tensor_names
from reasoner_rl.training.value import load_critic
from reasoner_rl.training.whole import Kind, WholeTensors, never_trained

# The names in FSDP2's checkpoints: of the part that is no optimizer state, and of the model inside Policy and Critic.
_PREFIX = "model.model."
_MOMENTS = "optimizer.state.model."
_WEIGHTS = "weights"  # the folder of FSDP2's tensors
_ATTENTION = "eager"  # of a model whose weights alone are of interest


def saved_by(folder: Path) -> Literal["fsdp", "megatron"]:
    """The backend that wrote a model's folder of a checkpoint."""
    return "fsdp" if (folder / _WEIGHTS).is_dir() else "megatron"


def open_checkpoint(folder: Path, model: ModelConfig, head: Head = "policy") -> WholeTensors:
    """The tensors that `TrainBackend.save` wrote into ``folder``, whatever the recipe trains with now.

    Raises MissingExtraError where Megatron's parts are needed and not installed, and ConfigError where there are LoRA's
    adapters in the checkpoint or in ``model``, which cannot be told from the weights that they are added to.
    """
    if saved_by(folder) == "fsdp":
        return _FsdpTensors(folder, model, head)
    if model.lora is not None:
        raise ConfigError(
            f"model.lora is set, and {folder} was made by Megatron, which trains no adapters: unset model.lora, or "
            "choose another run.output_dir for a run that begins with the weights that `reasoner-rl export` writes"
        )
    for package, name in (("megatron.core", "megatron-core"), ("mbridge", "mbridge")):
        require_package(package, name, "megatron", "training.backend.kind=megatron")
    from reasoner_rl.training.megatron.saved import MegatronTensors

    return MegatronTensors(folder, model, head)


def saved_weights(folder: Path, model: ModelConfig, head: Head = "policy") -> Iterator[tuple[str, Tensor]]:
    """Stream what `TrainBackend.full_weights` gave when `TrainBackend.save` wrote ``folder``, on the CPU.

    Names are those of a Hugging Face checkpoint; LoRA's adapters are merged. Nothing here is collective. Raises
    MissingExtraError where Megatron's parts are not installed, and UserError if a tensor is not in the checkpoint.
    """
    if model.lora is None:
        tensors = open_checkpoint(folder, model, head)
        yield from ((name, tensors.read(name)) for name in tensors.names())
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


class _FsdpTensors:
    """`WholeTensors` of a checkpoint that FSDP2 has saved, without adapters."""

    def __init__(self, folder: Path, model: ModelConfig, head: Head) -> None:
        self._folder, self._saved = folder, _SavedTensors(folder)
        if self._saved.has_adapters:
            raise ConfigError(
                f"{folder} holds LoRA's adapters, which FSDP2 alone trains: keep training.backend.kind=fsdp and "
                "model.lora, or choose another run.output_dir for a run that begins with the weights that "
                "`reasoner-rl export` writes"
            )
        shell = _shell(model, head)
        self._config = shell.config
        held = shell.state_dict()
        # The name in a checkpoint -> that in the model, which fuses experts.
        self._index = {
            name: own
            for own in tensor_names(shell)
            for name, _ in as_in_checkpoints(shell.config, [(own, held[own])])
        }
        self._newest: tuple[str, Kind, dict[str, Tensor]] | None = None

    @property
    def made_by(self) -> str:
        """See WholeTensors."""
        return described_fsdp(len(list(self._folder.glob("rank_*.pt"))))

    @property
    def updates(self) -> int:
        """See WholeTensors."""
        file = self._folder / "rank_0.pt"
        if not file.exists():
            raise never_trained(self._folder)
        return int(torch.load(file, weights_only=True)["schedule"]["last_epoch"])

    def names(self) -> Iterator[str]:
        """See WholeTensors."""
        yield from self._index

    def read(self, name: str, kind: Kind = "weight") -> Tensor:
        """See WholeTensors. A layer's fused experts are read once, if their matrices are asked for in a row."""
        own = self._index.get(name)
        if own is None:
            raise UserError(f"{self._folder} holds no tensor {name}")
        if self._newest is None or self._newest[:2] != (own, kind):
            self._newest = None  # let go of it before the next is read
            whole = self._saved.read(own, kind)
            self._newest = (own, kind, dict(as_in_checkpoints(self._config, [(own, whole)])))
        return self._newest[2][name]


def described_fsdp(workers: int) -> str:
    """A layout of FSDP2 as a message names it."""
    return f"fsdp on {workers} worker{'s' * (workers > 1)}" if workers else "fsdp"


class _SavedTensors:
    """The tensors of a checkpoint that FSDP2 has saved, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _WEIGHTS
        self._reader = CheckedReader(self._folder)
        self._described: Mapping[str, object] = self._reader.read_metadata().state_dict_metadata

    @property
    def has_adapters(self) -> bool:
        """Whether there are parts of LoRA's adapters among them."""
        return any(is_adapter(name) for name in self._described)

    def read(self, name: str, kind: Kind = "weight") -> Tensor:
        """The whole tensor of this name of the model, or a moment of it. The weights are the masters, in float32."""
        key = f"{_PREFIX}{name}" if kind in ("weight", "master") else f"{_MOMENTS}{name}.{kind}"
        described = self._described.get(key)
        if not isinstance(described, TensorStorageMetadata):
            what = (
                f"no tensor {name}"
                if kind in ("weight", "master")
                else f"no {kind} of {name}, which was frozen"
            )
            raise UserError(f"{self._folder} holds {what}")
        tensor = torch.empty(described.size, dtype=described.properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is intended
            load_checked({key: tensor}, self._reader, no_dist=True)
        return tensor
