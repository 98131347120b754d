"""What our attention over packed sequences cannot do, refused before it would give wrong numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from reasoner_rl.errors import UserError

WIDEST_FLASH_HEAD = 256  # of both flash kernels
FLASH_HEAD_MULTIPLE = 8  # of PyTorch's, which pads only where scaled_dot_product_attention calls it
# What some models (Gemma 2, gpt-oss) pass to change the scores, and scaled dot-product attention would ignore.
_UNSUPPORTED = ("softcap", "s_aux")


def head_widths(config: Any) -> set[tuple[int, int]]:
    """Widths of a head's keys and of its values in the layers of a model with this text configuration."""
    rotated = getattr(config, "qk_rope_head_dim", None)
    if rotated is not None:  # latent attention, as of DeepSeek
        return {(config.qk_nope_head_dim + rotated, config.v_head_dim)}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {(width, width)} | {(wide, wide) for wide in [getattr(config, "global_head_dim", None)] if wide}


def attention_dropout(config: Any) -> float:
    """The dropout of attention weights in training, by any of the names that transformers has for it."""
    names = ("attention_dropout", "attn_pdrop", "attn_dropout")
    return max(float(getattr(config, name, None) or 0.0) for name in names)


def varlen_problem(config: Any) -> str | None:
    """What `torch_varlen` cannot do of a model with this text configuration, or None."""
    if (dropout := attention_dropout(config)) > 0:
        return f"dropout {dropout:g} of attention, which the kernel does not do"
    for keys, values in sorted(head_widths(config)):
        if not fits_varlen(keys, values):
            return f"heads of widths {keys} (keys) and {values} (values), and the kernel does {VARLEN_WIDTHS}"
    return None


VARLEN_WIDTHS = f"one width, a multiple of {FLASH_HEAD_MULTIPLE} up to {WIDEST_FLASH_HEAD}"


def fits_varlen(keys: int, values: int) -> bool:
    """Whether `torch_varlen` can attend with heads of these widths."""
    return keys == values and keys <= WIDEST_FLASH_HEAD and keys % FLASH_HEAD_MULTIPLE == 0


def check_scores(attention: str, module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Raise UserError if the model's attention has score capping or sinks."""
    for extra in _UNSUPPORTED:
        if arguments.get(extra) is not None:
            raise UserError(
                f"model.attention={attention} does not know {type(module).__name__}'s {extra}; "
                "use flash_attention_2, or another model"
            )


def check_window(attention: str, longest: int, sliding_window: int | None) -> None:
    """Raise ValueError if a sequence of ``longest`` tokens is longer than a sliding window."""
    if sliding_window is not None and longest > sliding_window:
        raise ValueError(
            f"a sequence of {longest} tokens is longer than the model's sliding window of {sliding_window}, which "
            f"{attention} does not apply: use model.attention=flash_attention_2 or shorter sequences"
        )
