"""The whole tensors of a checkpoint that Megatron's ranks have saved, put together from their files in one process.

No process groups are made: the files say how the model was divided, and mbridge's own rules join the parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.training.backend import Head
from reasoner_rl.training.megatron.files import RankFiles, describe
from reasoner_rl.training.megatron.layer_choice import Layers
from reasoner_rl.training.megatron.model import build_bridge
from reasoner_rl.training.megatron.stream import EXPERTS
from reasoner_rl.training.value import HEAD_WEIGHT
from reasoner_rl.training.whole import Kind, never_trained

_LAYERS = "decoder.layers."
# Which tensors tensor-parallel ranks have parts of, and along which dimension; all others are whole on every rank.
_DIVIDED = {
    "word_embeddings.weight": 0,
    "output_layer.weight": 0,
    "linear_qkv.weight": 0,
    "linear_qkv.bias": 0,
    "linear_fc1.weight": 0,
    "linear_proj.weight": 1,
    "linear_fc2.weight": 1,
}


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor of the whole model, and where its parts are."""

    name: str  # Megatron's, in the whole model
    local: str  # Megatron's, on the ranks
    stage: int
    chunk: int
    owners: tuple[tuple[int, ...], ...]  # of each part, the ranks of the stage that have it


class MegatronTensors:
    """`WholeTensors` of a checkpoint of Megatron's ranks."""

    def __init__(self, folder: Path, model: ModelConfig, head: Head) -> None:
        """Read which tensors there are, and where. Raises ConfigError for another head, and as `build_bridge` does."""
        self._files = RankFiles(folder)
        if (saved := self._files.layout.get("head", head)) != head:
            raise ConfigError(
                f"{folder} is of a model with {{'head': {saved!r}}}, and this one has {{'head': {head!r}}}"
            )
        self._bridge = _bridge(model, self._files, head)
        self._index: dict[str, _Held] = {}
        for held in _all_held(self._files, self._bridge.config):
            for name in self._bridge._weight_name_mapping_mcore_to_hf(held.name):
                self._index.setdefault(name, held)  # tied embeddings are on the first and the last stage
        self._newest: tuple[_Held, Kind, dict[str, Tensor]] | None = None

    @property
    def made_by(self) -> str:
        """See WholeTensors."""
        return describe(self._files.layout)

    @property
    def updates(self) -> int:
        """See WholeTensors."""
        saved = self._files.of(0, 0)
        if "updates" not in saved:
            raise never_trained(self._files.folder)
        return int(saved["updates"])

    def names(self) -> Iterator[str]:
        """See WholeTensors."""
        yield from self._index

    def read(self, name: str, kind: Kind = "weight") -> Tensor:
        """See WholeTensors. Without padding. What one of Megatron's tensors is made of is read once, if in a row."""
        held = self._index.get(name)
        if held is None:
            raise UserError(f"{self._files.folder} holds no tensor {name}")
        if self._newest is None or self._newest[:2] != (held, kind):
            self._newest = None  # let go of it before the next is read
            self._newest = (held, kind, self._converted(held, kind))
        return self._newest[2][name]

    def _converted(self, held: _Held, kind: Kind) -> dict[str, Tensor]:
        bridge, parts = self._bridge, [self._part(held, ranks, kind) for ranks in held.owners]
        whole = parts[0]
        if EXPERTS in held.name or _dim(held.name) is not None:
            divided = SimpleNamespace(tensor_model_parallel=True, partition_dim=_dim(held.name))
            whole = bridge._weight_merge_across_tp(held.name, parts, divided)
        bridge.padded_vocab_size = len(whole)  # which mbridge reads where a tensor has a row per token
        names, tensors = bridge._weight_to_hf_format(held.name, whole)
        return dict(zip(names, tensors, strict=True))

    def _part(self, held: _Held, ranks: tuple[int, ...], kind: Kind) -> Tensor:
        files, chunk = self._files, held.chunk
        if kind == "weight" or "optimizers" not in files.of(held.stage, ranks[0]):
            return files.weights(held.stage, ranks[0], chunk)[held.local]
        return files.stepped(held.stage, ranks, chunk, held.local, kind)


def _bridge(model: ModelConfig, files: RankFiles, head: Head) -> Any:
    """mbridge's rules for the layout of the files, whatever the recipe says now."""
    layout = files.layout
    keys = ("tensor_parallel", "pipeline_parallel", "virtual_stages", "expert_parallel")
    config = MegatronBackendConfig(**{key: layout[key] for key in keys})
    sizes = {"tp_size": layout["tensor_parallel"], "etp_size": files.expert_tensor_parallel}
    bridge = build_bridge(model, config, _layers_of(files), head, sizes)
    bridge.vocab_size = bridge.hf_config.vocab_size
    if head != "policy":
        bridge._DIRECT_MAPPING["output_layer.score"] = HEAD_WEIGHT
    return bridge


def _layers_of(files: RankFiles) -> Layers:
    """Which layers the tensors are of, by their names: TransformerEngine fuses norms into linear layers."""
    names = files.weights(0, 0, 0)
    return "local" if any("input_layernorm.weight" in name for name in names) else "transformer_engine"


def _all_held(files: RankFiles, config: Any) -> Iterator[_Held]:
    for stage in range(files.layout["pipeline_parallel"]):
        for chunk in range(files.layout["virtual_stages"]):
            offset = files.first_layer(stage, chunk, config.num_layers)
            for local in files.weights(stage, 0, chunk):
                name = _global_name(local, offset)
                if EXPERTS not in local:
                    ranks = files.layout["tensor_parallel"] if _dim(local) is not None else 1
                    owners = tuple(files.replicas(rank) for rank in range(ranks))
                    yield _Held(name, local, stage, chunk, owners)
                    continue
                stem, _, expert = name.rpartition("weight")
                share = files.layout["expert_parallel"]
                for place in range(share):
                    owners = tuple(
                        files.expert_replicas(place, rank) for rank in range(files.expert_tensor_parallel)
                    )
                    number = int(expert) + place * (config.num_moe_experts // share)
                    yield _Held(f"{stem}weight{number}", local, stage, chunk, owners)


def _global_name(local: str, offset: int) -> str:
    if _LAYERS not in local:
        return local
    before, _, after = local.partition(_LAYERS)
    number, _, rest = after.partition(".")
    return f"{before}{_LAYERS}{int(number) + offset}.{rest}"


def _dim(name: str) -> int | None:
    """The dimension along which tensor-parallel ranks divide a tensor that is no expert's; None: they do not."""
    return next((dim for ending, dim in _DIVIDED.items() if name.endswith(ending)), None)
