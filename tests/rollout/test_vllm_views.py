"""Finding Hugging Face tensors inside vLLM's fused and padded ones."""

from __future__ import annotations

import pytest
import torch

from reasoner_rl.errors import ConfigError
from reasoner_rl.rollout.vllm_views import hugging_face_views

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
SHAPES = {
    "model.embed_tokens.weight": torch.Size([10, 4]),
    "model.layers.0.self_attn.q_proj.weight": torch.Size([4, 4]),
    "model.layers.0.self_attn.k_proj.weight": torch.Size([2, 4]),
    "model.layers.0.self_attn.v_proj.weight": torch.Size([2, 4]),
    "model.layers.0.self_attn.q_proj.bias": torch.Size([4]),
    "model.layers.0.self_attn.k_proj.bias": torch.Size([2]),
    "model.layers.0.self_attn.v_proj.bias": torch.Size([2]),
    "model.norm.weight": torch.Size([4]),
}


def held() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": torch.arange(64.0).view(16, 4),  # padded from 10 to 16 rows
        "model.layers.0.self_attn.qkv_proj.weight": torch.arange(32.0).view(8, 4),
        "model.layers.0.self_attn.qkv_proj.bias": torch.arange(8.0),
        "model.norm.weight": torch.ones(4),
    }


def test_every_tensor_is_a_run_of_rows_of_the_same_storage() -> None:
    tensors = held()
    views = hugging_face_views(tensors, FUSED, SHAPES)
    assert {name: view.shape for name, view in views.items()} == SHAPES
    assert views["model.layers.0.self_attn.k_proj.weight"].flatten().tolist() == list(range(16, 24))
    assert views["model.layers.0.self_attn.v_proj.bias"].tolist() == [6, 7]
    assert all(view.is_contiguous() for view in views.values())
    views["model.layers.0.self_attn.v_proj.weight"].fill_(-1)
    views["model.embed_tokens.weight"].fill_(-2)
    assert tensors["model.layers.0.self_attn.qkv_proj.weight"][6:].eq(-1).all()
    assert tensors["model.layers.0.self_attn.qkv_proj.weight"][:6].ge(0).all()
    assert tensors["model.embed_tokens.weight"][10:].ge(0).all(), "the padding is nobody's"


def test_what_has_no_counterpart_is_named() -> None:
    with pytest.raises(ConfigError, match=r"vLLM holds model\.extra, and the trainer has no model\.extra"):
        hugging_face_views({**held(), "model.extra": torch.ones(1)}, FUSED, SHAPES)
    with pytest.raises(ConfigError, match=r"of lm_head\.weight \(10, 4\) vLLM holds nothing"):
        hugging_face_views(held(), FUSED, {**SHAPES, "lm_head.weight": torch.Size([10, 4])})
    with pytest.raises(ConfigError, match=r"of model\.norm\.weight \(5,\) vLLM holds \(4,\)"):
        hugging_face_views(held(), FUSED, {**SHAPES, "model.norm.weight": torch.Size([5])})
