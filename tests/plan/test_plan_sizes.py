"""Sizes of models that a plan starts from, against published counts, transformers and peft."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.plan.architecture import read_architecture
from reasoner_rl.training.policy import load_causal_lm, prepare

# Of the published checkpoints, by the index of their files or their model cards.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_the_table_have_their_published_number_of_parameters(name: str) -> None:
    architecture = read_architecture(name)
    assert architecture.parameters == PUBLISHED[name]
    assert architecture.tied == (name in list(PUBLISHED)[:3])


def test_of_a_mixture_of_experts_a_token_uses_a_part() -> None:
    architecture = read_architecture("Qwen/Qwen3-30B-A3B")
    expert = 3 * 2048 * 768
    assert architecture.expert_parameters == 48 * 128 * expert
    attention = 2048 * 4096 * 2 + 2 * 2048 * 512 + 2 * 128 + 2 * 2048
    router = 128 * 2048
    head = 151_936 * 2048
    assert architecture.multiplied_parameters == 48 * (8 * expert + attention + router) + head


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied", "qwen3-tied", "qwen3_moe-untied"])
def test_a_folder_is_counted_as_transformers_counts_it(
    tiny_checkpoint: Callable[[str], Path], name: str
) -> None:
    path = str(tiny_checkpoint(name))
    model = AutoModelForCausalLM.from_pretrained(path)
    architecture = read_architecture(path)
    assert architecture.source == f"config.json of {path}"
    assert architecture.parameters == model.num_parameters()
    assert architecture.tied == name.endswith("-tied")
    layers = sum(p.numel() for p in model.model.layers.parameters())
    embeddings = model.num_parameters() - layers - model.model.norm.weight.numel()
    assert (architecture.layer_parameters, architecture.embedding_parameters) == (layers, embeddings)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze_first_fraction": 0.5},
        {"lora": LoraConfig(rank=4)},
        {"lora": LoraConfig(rank=2, target_modules=["q_proj", "down_proj"])},
    ],
)
def test_what_is_trained_is_what_the_trainer_trains(
    tiny_checkpoint: Callable[[str], Path], changes: dict[str, object]
) -> None:
    path = str(tiny_checkpoint("qwen2-untied"))
    config = ModelConfig.model_validate({"path": path, **changes})
    model = load_causal_lm(config, torch.float32, "eager")
    prepare(model, config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert read_architecture(path).trained_parameters(config) == trained


def test_a_model_of_unknown_sizes_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model.path='Qwen/Qwen2.5-7b'.*Did you mean 'Qwen/Qwen2.5-7B'"):
        read_architecture("Qwen/Qwen2.5-7b")
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_architecture("./nowhere")
