"""What our attention over packed sequences does not do, told before it would give wrong numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from reasoner_rl.errors import UserError

# What some models (Gemma 2, gpt-oss) pass to change the scores, and scaled dot-product attention would ignore.
_UNSUPPORTED = ("softcap", "s_aux")


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
