"""What vLLM needs before it can generate on a CPU beside a trainer whose weights it takes over. CPU only.

Private names of vLLM are used, and checked: a version that renamed them is refused with their names. Experts alone are
replaced where they are found: versions that hold them elsewhere generate with dense models all the same.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reasoner_rl.errors import UserError

CACHE = "VLLM_CPU_KVCACHE_SPACE"
# Read by vLLM when it is imported. The key-value cache is in GiB; threads are left to PyTorch, because vLLM's binding
# would take the trainer's cores away for good. Warnings on a CPU are of what is chosen here (whole prompts, eager mode,
# threads, one process) and of packages that vLLM does not need, 15 lines at every start.
_ENVIRONMENT = {
    CACHE: "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_LINEAR_LAYERS = ("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm")
_EXPERTS = ("vllm.model_executor.layers.fused_moe.experts.cpu_moe", "CPUUnquantizedExperts")
_SHARED_MEMORY = ("vllm.distributed.device_communicators.cpu_communicator", "_CPUSHMDistributed")


def set_environment() -> None:
    """Give vLLM's variables the values that suit one process; what the user has set stays. Before the first import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def adapt() -> None:
    """Make `load_weights` work on a CPU, and jobs on one machine keep out of each other's shared memory.

    Raises UserError if vLLM no longer has the private names that this replaces.
    """
    layers, _ = _require(*_LINEAR_LAYERS)
    layers.dispatch_cpu_unquantized_gemm = _plain_linear  # type: ignore[attr-defined]
    if (experts := _find(*_EXPERTS)) is not None:
        experts.process_weights_after_loading = _leave_as_loaded
        experts.apply = _plain_experts
    _, shared_memory = _require(*_SHARED_MEMORY, "make_group_name")
    if not hasattr(shared_memory, "reasoner_rl_original"):
        shared_memory.reasoner_rl_original = staticmethod(shared_memory.make_group_name)
        shared_memory.make_group_name = staticmethod(_group_name_of_this_job)


def _plain_linear(layer: Any, remove_weight: bool) -> None:
    """vLLM repacks linear weights and empties the originals; a weight loaded later would go nowhere, or be stale."""
    del remove_weight
    layer.cpu_linear = torch.nn.functional.linear


def _leave_as_loaded(experts: Any, layer: Any) -> None:
    """vLLM repacks experts too, in place: a matrix loaded later would be written across the packed ones."""
    del experts, layer


def _plain_experts(
    experts: Any,
    *,
    output: Tensor,
    hidden_states: Tensor,
    w1: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    activation: Any,
    **rest: Any,
) -> None:
    """SwiGLU experts as loaded: hidden_states [N, H], w1 [experts, 2 I, H], w2 [experts, H, I], top-k [N, k]."""
    del experts, rest
    if activation.value != "silu":
        raise UserError(
            f"rollout.engine.kind=vllm on a CPU has experts with SwiGLU alone, not {activation.value}"
        )
    output.zero_()
    for expert in topk_ids.unique().tolist():
        token, place = torch.where(topk_ids == expert)
        gate, up = F.linear(hidden_states[token], w1[expert]).chunk(2, -1)
        found = F.linear(F.silu(gate) * up, w2[expert]) * topk_weights[token, place, None]
        output.index_add_(0, token, found.to(output.dtype))


def _group_name_of_this_job(communicator: Any) -> str:
    """With ranks started from outside every job would get the same name in /dev/shm."""
    _, shared_memory = _require(*_SHARED_MEMORY)
    return f"job{os.environ.get('MASTER_PORT', '0')}-{shared_memory.reasoner_rl_original(communicator).lstrip('/')}"


def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _require(module: str, name: str, attribute: str | None = None) -> tuple[ModuleType, Any]:
    loaded: Any = None
    try:
        loaded = importlib.import_module(module)
        found = getattr(loaded, name)
        if attribute is not None:
            getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        version = getattr(importlib.import_module("vllm"), "__version__", "unknown")
        place = ".".join(part for part in (module, name, attribute) if part)
        raise UserError(
            f"rollout.engine.kind=vllm on a CPU replaces {place}, which vLLM {version} does not have; "
            "docs/architecture.md lists the versions that were tested"
        ) from error
    return loaded, found
