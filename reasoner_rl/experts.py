"""The names under which checkpoints hold the experts of a mixture of experts.

transformers fuses a layer's experts into two tensors in memory. Checkpoints, vLLM and Megatron's bridge have a matrix
an expert, so that is what travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from transformers import PretrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

_FUSED, _DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
_PARTS = ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"]


def as_in_checkpoints(
    config: PretrainedConfig, named: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model as its checkpoints have them: an expert's matrices by themselves, as views.

    ``config`` is the model's; those whose experts transformers does not fuse like Qwen's are left as they are.
    """
    conversions = get_checkpoint_conversion_mapping(config.model_type) or []
    fused = any(
        conversion.target_patterns == [_FUSED] and conversion.source_patterns == _PARTS
        for conversion in conversions
    )
    for name, tensor in named:
        if fused and name.endswith(_FUSED):
            for expert, matrices in enumerate(tensor):  # [experts, gate and up, hidden]
                stem = f"{name.removesuffix('.gate_up_proj')}.{expert}"
                gate, up = matrices.chunk(2)
                yield f"{stem}.gate_proj.weight", gate
                yield f"{stem}.up_proj.weight", up
        elif fused and name.endswith(_DOWN):
            for expert, matrix in enumerate(tensor):
                yield f"{name.removesuffix('.down_proj')}.{expert}.down_proj.weight", matrix
        else:
            yield name, tensor
