"""The weights in a checkpoint that Megatron's ranks have saved, a file each, put together in one process.

No process groups are made: the files say how the model was divided, and mbridge's own rules join the parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.training.backend import Head
from reasoner_rl.training.megatron.layer_choice import Layers
from reasoner_rl.training.megatron.model import build_bridge
from reasoner_rl.training.megatron.stream import EXPERTS
from reasoner_rl.training.value import HEAD_WEIGHT

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
State = Mapping[str, Tensor]
Layout = Mapping[str, Any]  # see `MegatronBackend._layout`
_LAYOUT_FILE = "layout.json"


@dataclass(frozen=True)
class _Files:
    """The files of all ranks, and how the model is divided among them."""

    folder: Path
    layout: Layout

    @cached_property
    def ranks_per_stage(self) -> int:
        """Of one stage of the pipeline; Megatron numbers tensor-parallel ranks first and stages last."""
        return int(self.layout["workers"]) // int(self.layout["pipeline_parallel"])

    @property
    def expert_tensor_parallel(self) -> int:
        """Ranks that share an expert; see `moe.sizes`."""
        return 1 if self.layout["expert_parallel"] > 1 else int(self.layout["tensor_parallel"])

    def parts(self, stage: int, chunk: int, ranks: Sequence[int]) -> list[State]:
        """The weights of some of a stage's ranks, of one of its chunks."""
        return [
            read_rank(self.folder, stage * self.ranks_per_stage + rank)["models"][chunk] for rank in ranks
        ]

    def first_layer(self, stage: int, chunk: int, layers: int) -> int:
        """The number in the whole model of a chunk's first layer."""
        stages, chunks = int(self.layout["pipeline_parallel"]), int(self.layout["virtual_stages"])
        return (chunk * stages + stage) * (layers // (stages * chunks))


def write_layout(folder: Path, layout: Layout) -> None:
    """Write into a checkpoint how its ranks divide the model."""
    (folder / _LAYOUT_FILE).write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")


def read_layout(folder: Path) -> Layout:
    """How the ranks that made a checkpoint divide the model: some hundred bytes, which every rank reads.

    Checkpoints of earlier versions have it beside rank 0's weights, of which nothing else is read then.
    """
    file = folder / _LAYOUT_FILE
    layout: Layout = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else read_rank(folder, 0)["layout"]
    )
    return layout


def read_rank(folder: Path, rank: int) -> dict[str, Any]:
    """What a rank has saved, mapped into memory: only what is used is read from the disk."""
    state: dict[str, Any] = torch.load(
        folder / f"rank_{rank}.pt", map_location="cpu", weights_only=False, mmap=True
    )
    return state


def megatron_weights(
    folder: Path, model: ModelConfig, config: MegatronBackendConfig, head: Head
) -> Iterator[tuple[str, Tensor]]:
    """Stream the whole tensors under Hugging Face names, each once, without padding."""
    files = _Files(folder, read_layout(folder))
    bridge = _bridge(model, config, files, _layers_of(read_rank(folder, 0)["models"][0]), head)
    layers = bridge.config.num_layers
    seen: set[str] = set()
    for stage in range(files.layout["pipeline_parallel"]):
        for chunk in range(files.layout["virtual_stages"]):
            offset = files.first_layer(stage, chunk, layers)
            for name, shards in _shards(files, stage, chunk, offset, bridge.config.num_moe_experts):
                for hf_name, tensor in _converted(bridge, name, shards):
                    if hf_name not in seen:  # tied embeddings are on the first and the last stage
                        seen.add(hf_name)
                        yield hf_name, tensor


def _layers_of(state: State) -> Layers:
    """Which layers the tensors are of, by their names: TransformerEngine fuses norms into linear layers."""
    return "local" if any("input_layernorm.weight" in name for name in state) else "transformer_engine"


def _bridge(
    model: ModelConfig, config: MegatronBackendConfig, files: _Files, layers: Layers, head: Head
) -> Any:
    sizes = {"tp_size": files.layout["tensor_parallel"], "etp_size": files.expert_tensor_parallel}
    bridge = build_bridge(model, config, layers, head, sizes)
    bridge.vocab_size = bridge.hf_config.vocab_size
    if head != "policy":
        bridge._DIRECT_MAPPING["output_layer.score"] = HEAD_WEIGHT
    return bridge


def _shards(
    files: _Files, stage: int, chunk: int, offset: int, experts: int | None
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the tensors of a chunk, under their names in the whole model, each as the parts that ranks have of it."""
    dense = files.parts(stage, chunk, range(files.layout["tensor_parallel"]))
    for local, tensor in dense[0].items():
        if EXPERTS not in local:
            yield (
                _global_name(local, offset),
                [part[local] for part in dense] if _dim(local) is not None else [tensor],
            )
    ranks, share = files.expert_tensor_parallel, files.layout["expert_parallel"]
    for place in range(share if experts else 0):
        parts = files.parts(stage, chunk, range(place * ranks, (place + 1) * ranks))
        for local in parts[0]:
            if EXPERTS in local:
                stem, _, expert = _global_name(local, offset).rpartition("weight")
                number = int(expert) + place * ((experts or 0) // share)
                yield f"{stem}weight{number}", [part[local] for part in parts]


def _global_name(local: str, offset: int) -> str:
    if _LAYERS not in local:
        return local
    before, _, after = local.partition(_LAYERS)
    number, _, rest = after.partition(".")
    return f"{before}{_LAYERS}{int(number) + offset}.{rest}"


def _dim(name: str) -> int | None:
    """The dimension along which tensor-parallel ranks divide a tensor that is no expert's; None: they do not."""
    return next((dim for ending, dim in _DIVIDED.items() if name.endswith(ending)), None)


def _converted(bridge: Any, name: str, shards: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    whole = shards[0]
    if EXPERTS in name or _dim(name) is not None:
        divided = SimpleNamespace(tensor_model_parallel=True, partition_dim=_dim(name))
        whole = bridge._weight_merge_across_tp(name, shards, divided)
    bridge.padded_vocab_size = len(whole)  # which mbridge reads where a tensor has a row per token
    names, tensors = bridge._weight_to_hf_format(name, whole)
    yield from zip(names, tensors, strict=True)
