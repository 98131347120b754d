"""Megatron's layers without TransformerEngine, on a CPU and on GPUs: megatron-core's own, with PyTorch's attention.

megatron-core's local layers cannot train on packed sequences with sequence parallelism, and name their experts in a way
that mbridge cannot map. The parts that differ are below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from torch import Tensor, nn

from reasoner_rl.training.megatron.share import own_tokens, stretches
from reasoner_rl.training.torch_varlen import PackedBounds, can_attend, torch_varlen

if not moe_utils.HAVE_TE:
    moe_utils.te_general_gemm = None  # which is not defined then, and asked for

# Kernels of TransformerEngine and apex, or compiled by Triton.
WITHOUT_FUSED_KERNELS = {
    "masked_softmax_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
}


class PackedAttention(MegatronModule):
    """Causal attention within each of several sequences that lie end to end, by PyTorch's own kernels.

    With context parallelism the queries are this rank's, and keys and values are gathered from all ranks.
    """

    def __init__(self, config: Any, *args: Any, softmax_scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(config=config)
        self._scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, packed_seq_params: Any, **kwargs: Any
    ) -> Tensor:
        """Query [T, heads, width], key and value [T, groups, width] -> [T, heads * width]."""
        cu_seqlens = packed_seq_params.cu_seqlens_q
        group = parallel_state.get_context_parallel_group()
        flash = can_attend(query, value)
        if flash and group.size() == 1:
            return self._flash(query, key, value, PackedBounds.of(cu_seqlens, packed_seq_params.max_seqlen_q))
        bounds = cu_seqlens.tolist()
        if group.size() > 1:
            owned = [own_tokens(bounds, rank, group.size()) for rank in range(group.size())]
            in_order = torch.cat(owned).argsort().to(query.device)
            key, value = (
                gather_from_sequence_parallel_region(x, group=group)[in_order] for x in (key, value)
            )
        own = list(stretches(bounds, group.rank(), group.size()))
        if flash:
            return self._flash(query, key, value, stretch_bounds(own, query.device))
        parts = []
        taken = 0
        for start, first, last in own:
            q = query[taken : taken + last - first].transpose(0, 1)[None]
            k, v = (x[start:last].transpose(0, 1)[None] for x in (key, value))
            parts.append(self._attend(q, k, v)[0].transpose(0, 1))
            taken += last - first
        return torch.cat(parts).flatten(1)

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, bounds: PackedBounds) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        return torch_varlen(self, q, k, v, None, self._scale, packed_bounds=bounds)[0][0].flatten(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query [1, heads, R, width] of the last R of C tokens, key and value [1, groups, C, width] -> as query."""
        rows, columns = query.shape[2], key.shape[2]
        mask: dict[str, Any] = {"is_causal": True}
        if rows < columns:
            seen = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
            mask = {"attn_mask": seen.tril(columns - rows)}
        # The GPU's kernel for float32 does not share keys among heads, and without a kernel PyTorch holds all scores.
        shares = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(shares, dim=1) for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value, scale=self._scale, **mask)


def stretch_bounds(own: Sequence[tuple[int, int, int]], device: torch.device) -> PackedBounds:
    """For the flash kernel: each of a context-parallel rank's stretches sees its sequence up to its own end.

    own: as `stretches` yields them. Keys and values are those of the whole sequences, in order.
    """
    rows = torch.tensor([last - first for _, first, last in own])
    columns = torch.tensor([last - start for start, _, last in own])
    queries, keys = (F.pad(counts.cumsum(0), (1, 0)).to(device, torch.int32) for counts in (rows, columns))
    seen = torch.cat([torch.arange(start, last) for start, _, last in own]).to(device)
    return PackedBounds(queries, keys, int(rows.max()), int(columns.max()), seen)


class RmsNorm(nn.RMSNorm):
    """Megatron's own wrapper of this refuses sequence parallelism, which needs no more than the mark below."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class _ExpertWeights(nn.Module):
    """A matrix an expert, ``weight0``, ``weight1``, ..., each divided among tensor-parallel ranks along ``dim``."""

    def __init__(self, config: Any, experts: int, rows: int, columns: int, dim: int) -> None:
        super().__init__()
        for expert in range(experts):
            weight = nn.Parameter(torch.empty(rows, columns, dtype=config.params_dtype))
            set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)
            weight.allreduce = config.expert_model_parallel_size == 1  # type: ignore[attr-defined]
            self.register_parameter(f"weight{expert}", weight)


class Experts(MegatronModule):
    """A layer's experts on this rank. Named as TransformerEngine's are, so that mbridge knows them."""

    def __init__(self, experts: int, config: Any, pg_collection: Any) -> None:
        super().__init__(config=config)
        width = config.moe_ffn_hidden_size // pg_collection.expt_tp.size()
        self.linear_fc1 = _ExpertWeights(config, experts, 2 * width, config.hidden_size, dim=0)
        self.linear_fc2 = _ExpertWeights(config, experts, config.hidden_size, width, dim=1)

    def forward(self, tokens: Tensor, counts: Tensor, weights: Tensor) -> tuple[Tensor, None]:
        """Tokens [N, H], sorted by expert, and the router's weights [N] -> [N, H], to be summed over the ranks."""
        sizes = counts.tolist()
        shares = zip(
            self.linear_fc1.parameters(),
            self.linear_fc2.parameters(),
            tokens.split(sizes),
            weights.split(sizes),
            strict=True,
        )
        outputs = []
        for up, down, own, weight in shares:
            gate, value = F.linear(own, up).chunk(2, -1)
            hidden = F.silu(gate) * value * weight[:, None]
            outputs.append(F.linear(hidden.to(own.dtype), down))
        return torch.cat(outputs), None


def layer_spec(config: Any, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The layers of a pipeline stage."""
    spec = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts, qk_layernorm=config.qk_layernorm, normalization="RMSNorm"
    )
    parts = spec.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = RmsNorm
    attention = parts.self_attention.submodules
    attention.core_attention = PackedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    if config.num_moe_experts is not None:
        parts.mlp.submodules.experts = Experts
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=RmsNorm)
