"""What Megatron-core needs to run on a CPU over gloo, for tests and for trying out. Refuses to load beside a GPU.

Megatron asks for the device "cuda" in many places; here such requests are turned to the CPU. The layers are those of
local_layers.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import megatron.core.tensor_parallel.random as megatron_random
import torch
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
            # The optimizer compares it with 'torch.cuda.FloatTensor'.
            return result.replace("torch.", "torch.cuda.", 1)
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
