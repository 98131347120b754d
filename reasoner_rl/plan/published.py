"""Sizes in the published config.json of models that shipped recipes name, so that they can be planned offline."""

from __future__ import annotations

from typing import Any

_QWEN2 = {"model_type": "qwen2", "max_position_embeddings": 131072}
_SMALL = {**_QWEN2, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
_LARGE = {**_QWEN2, "vocab_size": 152064, "tie_word_embeddings": False}


def _qwen2(hidden: int, intermediate: int, layers: int, heads: int, base: dict[str, Any]) -> dict[str, Any]:
    return {
        **base,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


# By name on the hub. The instruct models have the sizes of the base models.
_SIZES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 4864, 24, 14, _SMALL),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 8960, 28, 12, _SMALL),
    "Qwen/Qwen2.5-3B": _qwen2(2048, 11008, 36, 16, _SMALL),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 18944, 28, 28, {**_LARGE, "num_key_value_heads": 4}),
    "Qwen/Qwen2.5-14B": _qwen2(5120, 13824, 48, 40, {**_LARGE, "num_key_value_heads": 8}),
    "Qwen/Qwen2.5-32B": _qwen2(5120, 27648, 64, 40, {**_LARGE, "num_key_value_heads": 8}),
    "Qwen/Qwen3-30B-A3B": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
    },
}


def published_sizes(name: str) -> dict[str, Any] | None:
    """The sizes of the model with this name on the hub, or None if they are not in the table."""
    return _SIZES.get(name) or _SIZES.get(name.removesuffix("-Instruct"))


def names() -> list[str]:
    """The models of the table."""
    return list(_SIZES)
