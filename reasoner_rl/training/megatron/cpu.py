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
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
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
    _installed.append(_CudaToCpu())
    _installed[0].__enter__()


def _nothing(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


@contextlib.contextmanager
def _no_fork(self: Any, name: str | None = None) -> Iterator[None]:
    del self, name
    yield


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


def layer_spec(config: Any, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The layers of a pipeline stage, of parts that run on a CPU."""
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    parts = spec.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = RmsNorm
    attention = parts.self_attention.submodules
    attention.core_attention = PackedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=RmsNorm)
