"""What Megatron-core needs to run on a CPU over gloo, for tests and for trying out. Refuses to load beside a GPU.

Megatron asks for the device "cuda" in many places; here such requests are turned to the CPU. Its layers without
TransformerEngine lack two things that training on packed sequences with sequence parallelism needs: they are below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import megatron.core.tensor_parallel.random as megatron_random
import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reasoner_rl.training.megatron.share import own_tokens, stretches

if torch.cuda.is_available():
    raise RuntimeError(
        "megatron/cpu.py turns requests for a GPU to the CPU; it must not be loaded where there is one"
    )

_installed: list[_CudaToCpu] = []


class _CudaToCpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if getattr(func, "__name__", "") == "cuda":  # Tensor.cuda(...)
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and not isinstance(args[1], Tensor | torch.dtype):
            args = (args[0], "cpu", *args[2:]) if _is_cuda(args[1]) else args
        result = func(*args, **kwargs)
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return result.replace(
                "torch.", "torch.cuda.", 1
            )  # the optimizer asks for 'torch.cuda.FloatTensor'
        return result


def _is_cuda(device: Any) -> bool:
    return device is not None and (type(device) is int or str(device).startswith("cuda"))


def install() -> None:
    """Turn requests for a GPU to the CPU from now on, in this process. Idempotent."""
    if _installed:
        return
    replacements: dict[str, Any] = {
        "current_device": lambda: torch.device("cpu"),
        "synchronize": _nothing,
        "empty_cache": _nothing,
        "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
        "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
        "manual_seed": lambda seed: torch.manual_seed(seed),
    }
    for name, replacement in replacements.items():
        setattr(torch.cuda, name, replacement)
    nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    megatron_random.CudaRNGStatesTracker.fork = _no_fork
    megatron_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = _nothing  # recomputation restores the CPU's by itself
    moe_utils.te_general_gemm = None  # which is not defined without TransformerEngine, and asked for
    MoEAlltoAllTokenDispatcher.cuda_dtoh_stream = "none"  # or it would make one
    MoEAlltoAllTokenDispatcher._maybe_dtoh_and_synchronize = _splits_as_numbers
    _installed.append(_CudaToCpu())
    _installed[0].__enter__()


def _nothing(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


@contextlib.contextmanager
def _no_fork(self: Any, name: str | None = None) -> Iterator[None]:
    del self, name
    yield


def _splits_as_numbers(self: Any, point: str, tokens_per_expert: Tensor) -> Tensor:
    """On a GPU the dispatcher copies these to the host on a stream of its own."""
    if point == "before_ep_alltoall" and self.input_splits is not None:
        self.input_splits, self.output_splits = self.input_splits.tolist(), self.output_splits.tolist()
    return tokens_per_expert


class PackedAttention(MegatronModule):
    """Causal attention within each of several sequences that lie end to end, by PyTorch's own kernel.

    With context parallelism the queries are this rank's, and keys and values are gathered from all ranks.
    """

    def __init__(self, config: Any, *args: Any, softmax_scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(config=config)
        self._scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, packed_seq_params: Any, **kwargs: Any
    ) -> Tensor:
        """Query [T, heads, width], key and value [T, groups, width] -> [T, heads * width]."""
        bounds = packed_seq_params.cu_seqlens_q.tolist()
        group = parallel_state.get_context_parallel_group()
        if group.size() > 1:
            owned = [own_tokens(bounds, rank, group.size()) for rank in range(group.size())]
            in_order = torch.cat(owned).argsort()
            key, value = (
                gather_from_sequence_parallel_region(x, group=group)[in_order] for x in (key, value)
            )
        parts = []
        taken = 0
        for start, first, last in stretches(bounds, group.rank(), group.size()):
            q = query[taken : taken + last - first].transpose(0, 1)[None]
            k, v = (x[start:last].transpose(0, 1)[None] for x in (key, value))
            seen = torch.ones(last - first, last - start, dtype=torch.bool).tril(first - start)
            mask = {"is_causal": True} if first == start else {"attn_mask": seen}
            attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=self._scale, **mask)
            parts.append(attended[0].transpose(0, 1))
            taken += last - first
        return torch.cat(parts).flatten(1)


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
    """The layers of a pipeline stage, of parts that run on a CPU."""
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
