"""Attention over packed sequences by the flash kernel that PyTorch brings, for transformers' AttentionInterface.

`torch.nn.attention.varlen.varlen_attn` (flash attention 2, arXiv 2307.08691) reads sequences of any lengths that lie
end to end, so nothing is padded. Queries and keys have bounds of their own, and the causal mask is aligned at the end
of both. That is what sharing prompts needs: of a sequence whose prompt is computed elsewhere only the response has
queries, and keys and values of its prompt are taken from the one copy.

On a GPU, in 16 bits, with PyTorch 2.11 or newer.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.errors import UserError
from reasoner_rl.training.attention_limits import VARLEN_WIDTHS, check_scores, check_window, fits_varlen
from reasoner_rl.training.shared_prompts import SharedPrompts

TORCH_VARLEN = "reasoner_rl_torch_varlen"


@dataclass(frozen=True, slots=True)
class PackedBounds:
    """Where each of S sequences begins among K queries and T keys; made once per micro-batch, used by every layer."""

    queries: Tensor  # [S + 1] int32
    keys: Tensor  # [S + 1] int32
    longest_query: int
    longest_key: int
    stand_ins: Tensor | None  # [T] int64: which of the K computed tokens each key is; None: key i is token i

    @classmethod
    def of(cls, cu_seqlens: Tensor, longest: int, shared: SharedPrompts | None = None) -> PackedBounds:
        """Bounds for sequences with boundaries ``cu_seqlens`` [S + 1], before prompts are shared."""
        keys = cu_seqlens.to(torch.int32)
        if shared is None:
            return cls(keys, keys, longest, longest, None)
        # Computed tokens keep their order, so a boundary moves down to the number of computed tokens before it.
        queries = torch.searchsorted(shared.kept, cu_seqlens.to(torch.int64), out_int32=True)
        return cls(queries, keys, int(queries.diff().max()), longest, shared.stand_ins)


def torch_varlen(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    packed_bounds: PackedBounds | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each packed sequence, with the signature that transformers calls.

    query [1, H, K, D]; key and value [1, G, K, D] with G dividing H. Returns [1, K, H, D]. Raises ValueError if the
    caller gave no bounds, or if a sequence is longer than a sliding window, and UserError if the model's attention has
    score capping, sinks, dropout, or heads that the kernel does not know.
    """
    del attention_mask
    check_scores("torch_varlen", module, kwargs)
    if packed_bounds is None:
        raise ValueError(
            "torch_varlen needs the keyword packed_bounds: it attends within packed sequences only"
        )
    check_window("torch_varlen", packed_bounds.longest_key, sliding_window)
    if dropout > 0 or not fits_varlen(query.shape[-1], value.shape[-1]):
        raise UserError(
            f"model.attention=torch_varlen has no dropout of attention and {VARLEN_WIDTHS} of heads; "
            f"{type(module).__name__} has dropout {dropout:g}, widths {query.shape[-1]} and "
            f"{value.shape[-1]}: use model.attention=varlen_sdpa"
        )
    flat = [part[0].transpose(0, 1) for part in (query, key, value)]
    if packed_bounds.stand_ins is not None:
        flat[1:] = [part.index_select(0, packed_bounds.stand_ins) for part in flat[1:]]
    attend, options = _kernel()
    attended = attend(
        *flat,
        packed_bounds.queries,
        packed_bounds.keys,
        packed_bounds.longest_query,
        packed_bounds.longest_key,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **options,
    )
    return attended[None], None


def has_kernel(device: torch.device) -> bool:
    """Whether this PyTorch has the kernel and the device can run it."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    built = _kernel()[0] is not None and torch.backends.cuda.is_flash_attention_available()
    return built and torch.cuda.get_device_capability(device) >= (8, 0)


def can_attend(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel does heads of these tensors' last dimension, in their number format, on their device."""
    widths = fits_varlen(query.shape[-1], value.shape[-1])
    return widths and query.dtype is not torch.float32 and has_kernel(query.device)


@cache
def _kernel() -> tuple[Any, dict[str, bool]]:
    """PyTorch's function, or None where it is missing or an older one; and what must be said for grouped queries."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, {}
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= known.keys():
        return None, {}
    return varlen_attn, {"enable_gqa": True} if "enable_gqa" in known else {}
