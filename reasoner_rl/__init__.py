"""Reinforcement learning for reasoning models: GRPO and DAPO on verifiable math."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner_rl.api import evaluate, load_recipe, train

    __version__: str

__all__ = ["__version__", "evaluate", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    """The installed version, and the functions of `reasoner_rl.api`, which import torch and are loaded on demand."""
    if name == "__version__":
        return _installed_version()
    if name in __all__:
        from reasoner_rl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _installed_version() -> str:
    """The version of pyproject.toml at installation; "unknown" for a source tree that was not installed."""
    from reasoner_rl.observability.versions import installed_version

    return installed_version("reasoner_rl") or "unknown"
