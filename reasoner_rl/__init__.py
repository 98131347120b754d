"""Reinforcement learning for reasoning models: GRPO and DAPO on verifiable math."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner_rl.api import evaluate, load_recipe, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `reasoner_rl.api`, imported when they are asked for: they import torch."""
    if name in __all__:
        from reasoner_rl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
