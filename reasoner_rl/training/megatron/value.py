"""A critic's head in the place of Megatron's output layer.

Built after the decoder has been read, so that neither mbridge looks for an output embedding, nor Megatron's conversion
to bfloat16 reaches the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.utils import unwrap_model
from torch import Tensor, nn

from reasoner_rl.training.backend import Head
from reasoner_rl.training.megatron.share import Share, assemble
from reasoner_rl.training.value import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    require_head_without_bias,
    require_trained,
)
from reasoner_rl.types import MicroBatch, ValueOutputs


class ValueHead(nn.Module):
    """A linear map hidden -> 1 without bias, in float32; every tensor-parallel rank has all of it."""

    def __init__(self, score: Tensor, *, sequence_parallel: bool) -> None:
        super().__init__()
        self.score = nn.Parameter(score)
        self._sequence_parallel = sequence_parallel
        # Each rank sees its part of the sequence only; Megatron sums the gradients of what bears this mark.
        self.score.sequence_parallel = sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor, **unused: Any) -> tuple[Tensor, None]:
        """Hidden states [T / ranks, 1, hidden] -> values [T, 1, 1] on all ranks, and no bias, as Megatron's layers."""
        del unused  # arguments of the vocabulary's output layer
        values = F.linear(hidden.float(), self.score)
        if self._sequence_parallel:
            # All ranks compute the same loss of all values, so each takes its own part of the gradient.
            values = gather_from_sequence_parallel_region(values, tensor_parallel_output_grad=False)
        return values, None


def drop_output_layer(model: Any, **unused: Any) -> None:
    """Leave the place free, as soon as a stage has been made; for mbridge's ``post_model_creation_callbacks``."""
    del unused
    if model.post_process:
        model.output_layer = None


def add_head(bridge: Any, models: Sequence[Any], path: str, head: Head, *, needs_head: bool = False) -> None:
    """Give the last stage the head of the checkpoint that was read, or zero, and the bridge its name."""
    bridge._DIRECT_MAPPING["output_layer.score"] = HEAD_WEIGHT
    # Read on all stages, so that all refuse it or none.
    score = read_head(bridge.safetensor_io, bridge.config.hidden_size, path, head, needs_head=needs_head)
    for model in map(unwrap_model, models):
        if model.post_process:
            # A copy, because safetensors gives a view of the file.
            own = score.to(next(model.parameters()).device, torch.float32, copy=True)
            model.output_layer = ValueHead(own, sequence_parallel=bridge.config.sequence_parallel)


def read_head(checkpoint: Any, hidden: int, path: str, head: Head, *, needs_head: bool = False) -> Tensor:
    """The head [1, hidden]; zero if the checkpoint has none and needs none, as `load_critic` does."""
    names = checkpoint.load_hf_weight_names()
    if HEAD_WEIGHT not in names:
        require_trained(needs_head, head, path)
        return torch.zeros(1, hidden)
    weight: Tensor = checkpoint.load_one_hf_weight(HEAD_WEIGHT)
    bias = checkpoint.load_one_hf_weight(HEAD_BIAS) if HEAD_BIAS in names else None
    require_head_without_bias(weight, bias, head, path)
    return weight


def value_outputs(values: Tensor, batch: MicroBatch, share: Share) -> ValueOutputs:
    """What a critic says of the response tokens, from its values [1, T / ranks, 1] of the tokens of a share."""
    own = values[0, :, 0].index_select(0, share.predictors)
    return ValueOutputs(assemble(own, share, len(batch.targets)))
