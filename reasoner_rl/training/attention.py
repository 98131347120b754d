"""Which attention a model is built with, and how it learns where each of several packed sequences ends.

On a GPU in 16 bits a flash kernel reads the boundaries itself: PyTorch's own (`torch_varlen`), or that of the package
flash-attn (`flash_attention_2`, which transformers has). Anywhere else it is `varlen_sdpa`. All are reached through
transformers' AttentionInterface, by every model that uses it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from reasoner_rl.errors import ConfigError, MissingExtraError
from reasoner_rl.training.attention_limits import WIDEST_FLASH_HEAD, head_widths, varlen_problem
from reasoner_rl.training.shared_prompts import SharedPrompts
from reasoner_rl.training.torch_varlen import TORCH_VARLEN, PackedBounds, has_kernel, torch_varlen
from reasoner_rl.training.varlen_sdpa import VARLEN_SDPA, VarlenLayout, varlen_sdpa

AttentionName = Literal["auto", "torch_varlen", "varlen_sdpa", "flash_attention_2"]


def choose_attention(
    wanted: AttentionName, device: torch.device, dtype: torch.dtype, config: Any = None
) -> str:
    """Return the name of the transformers attention to build the model with, registering ours.

    "auto" is the first that can run of torch_varlen, flash_attention_2 and varlen_sdpa.
    config: the model's text configuration; None: of a model that every kernel can run.

    Raises MissingExtraError if flash-attn is asked for and not installed, and ConfigError if the device, the number
    format or the model is not one that the kernel asked for can run with.
    """
    installed = importlib.util.find_spec("flash_attn") is not None
    if wanted == "flash_attention_2" and not installed:
        raise MissingExtraError("flash-attn", "flash-attn", "model.attention=flash_attention_2")
    if wanted in ("flash_attention_2", "torch_varlen"):
        if device.type != "cuda":
            raise ConfigError(f"model.attention={wanted} needs a CUDA device; this run is on {device.type}")
        if dtype is torch.float32:
            raise ConfigError(f"model.attention={wanted} needs model.dtype=bfloat16; it is float32")
    if wanted == "torch_varlen" and not has_kernel(device):
        raise ConfigError(
            "model.attention=torch_varlen needs PyTorch 2.11 or newer and a GPU of compute capability 8.0 or higher; "
            f"this is PyTorch {torch.__version__}"
        )
    problem = None if config is None else varlen_problem(config)
    if wanted == "torch_varlen" and problem:
        raise ConfigError(
            f"model.attention=torch_varlen: the model has {problem}. Use model.attention=auto or varlen_sdpa"
        )
    flash = wanted == "auto" and device.type == "cuda" and dtype is not torch.float32
    if wanted == "torch_varlen" or (flash and not problem and has_kernel(device)):
        return _register(TORCH_VARLEN, torch_varlen)
    too_wide = config is not None and max(max(head_widths(config))) > WIDEST_FLASH_HEAD
    if wanted == "flash_attention_2" or (flash and installed and not too_wide):
        return "flash_attention_2"
    return _register(VARLEN_SDPA, varlen_sdpa)


def _register(name: str, attention: Callable[..., Any]) -> str:
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, _no_mask)
    return name


def can_share_prompts(attention: str) -> bool:
    """Whether sequences can have a prompt's keys and values in common: flash-attn reads each from one stretch."""
    return attention in (VARLEN_SDPA, TORCH_VARLEN)


def packed_arguments(
    attention: str, cu_seqlens: Tensor, max_seqlen: int, shared: SharedPrompts | None = None
) -> dict[str, Any]:
    """The keyword arguments that tell a model's attention where each packed sequence ends."""
    if attention == VARLEN_SDPA:
        return {"varlen_layout": VarlenLayout.of(cu_seqlens, shared)}
    if attention == TORCH_VARLEN:
        return {"packed_bounds": PackedBounds.of(cu_seqlens, max_seqlen, shared)}
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
    }


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
