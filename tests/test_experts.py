"""Experts under the names of checkpoints, against what transformers writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reasoner_rl.experts import as_in_checkpoints


@pytest.mark.parametrize("name", ["qwen3_moe-untied", "qwen2-tied"])
def test_tensors_are_those_of_the_checkpoint(name: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    saved = load_file(tiny_checkpoint(name) / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(name), dtype=torch.float32)
    found = dict(as_in_checkpoints(model.config, model.named_parameters()))
    assert found.keys() == saved.keys()
    for key, tensor in saved.items():
        assert torch.equal(found[key], tensor), key


@torch.no_grad()
def test_experts_are_views_that_can_be_written(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen3_moe-untied"), dtype=torch.float32)
    found = dict(as_in_checkpoints(model.config, model.named_parameters()))
    found["model.layers.1.mlp.experts.3.up_proj.weight"].fill_(7)
    experts = model.model.layers[1].mlp.experts
    assert (experts.gate_up_proj[3, 32:] == 7).all()
    assert not (experts.gate_up_proj[3, :32] == 7).any()
    assert not (experts.gate_up_proj[2] == 7).any()


def test_experts_of_another_layout_are_left_alone() -> None:
    config = type("Config", (), {"model_type": "gpt_oss"})()
    tensor = torch.zeros(2, 4, 6)
    [(name, found)] = as_in_checkpoints(config, [("model.layers.0.mlp.experts.gate_up_proj", tensor)])
    assert name == "model.layers.0.mlp.experts.gate_up_proj"
    assert found is tensor
