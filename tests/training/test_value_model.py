"""What becomes of a checkpoint as a critic, in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import EPS, TRAINING, make_samples
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
)

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.batching.reading import read_at_end
from reasoner_rl.config.algorithm import ValueLossConfig
from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.value import value_loss
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.types import MiniBatch

Checkpoint = Callable[[str], Path]
LOSS = partial(value_loss, config=ValueLossConfig(clip=None))


def make_critic(path: Path, **model: Any) -> FsdpBackend:
    single_process_group()
    torch.manual_seed(0)  # new adapters
    return FsdpBackend(
        ModelConfig(path=str(path), **model),
        TRAINING,
        FsdpBackendConfig(),
        temperature=0.7,
        total_updates=10,
        updates_per_step=1,
        head="value",
    )


def plan() -> MiniBatch:
    samples = [s.replace(returns=torch.full(s.response_ids.shape, 2.0)) for s in make_samples(100)]
    return plan_mini_batch(samples, 40, 64)


def copied(backend: FsdpBackend) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backend.full_weights()}


def save_classifier(policy: Path, path: Path, labels: int = 1, bias: float = 0.0) -> Path:
    model = AutoModelForTokenClassification.from_pretrained(policy, num_labels=labels)
    model.score.bias.data.fill_(bias)
    model.save_pretrained(path)
    return path


def test_the_first_update_of_a_new_critic_moves_its_head_and_decays_the_rest(
    tiny_checkpoint: Checkpoint,
) -> None:
    critic = make_critic(tiny_checkpoint("qwen2-tied"))
    before = copied(critic)
    critic.update(plan(), LOSS)
    rate = TRAINING.optimizer.lr / 2  # the first of two warm-up fractions
    for name, tensor in copied(critic).items():
        if name == "score.weight":
            # Adam's first step, of a clipped gradient that is not small against eps everywhere.
            assert (tensor.abs() <= rate * 0.05 / (0.05 + EPS)).all()
            assert tensor.abs().max() > 0.5 * rate
        else:  # a zero head passes no gradient on
            decay = rate * TRAINING.optimizer.weight_decay if tensor.ndim > 1 else 0.0
            torch.testing.assert_close(tensor, before[name] * (1 - decay), msg=name)


@pytest.mark.parametrize("frozen", [{"freeze_first_fraction": 0.5}, {"lora": LoraConfig(rank=2)}])
def test_the_head_learns_where_the_decoder_is_frozen(
    frozen: dict[str, Any], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    critic = make_critic(save_classifier(tiny_checkpoint("qwen2-tied"), tmp_path / "made"), **frozen)
    before = copied(critic)
    for _ in range(2):  # adapters begin with one matrix at zero
        critic.update(plan(), LOSS)
    moved = {name for name, tensor in copied(critic).items() if not torch.equal(tensor, before[name])}
    assert "score.weight" in moved
    assert "model.layers.1.mlp.up_proj.weight" in moved
    assert "model.embed_tokens.weight" not in moved
    assert ("model.layers.0.mlp.up_proj.weight" in moved) == ("lora" in frozen)
    critic.export_hf(tmp_path)
    exported = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert exported.config.architectures == ["Qwen2ForTokenClassification"]
    assert torch.equal(exported.score.weight, copied(critic)["score.weight"])


def test_an_export_leaves_transformers_nothing_to_make_up(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    make_critic(tiny_checkpoint("qwen2-tied")).export_hf(tmp_path)
    exported, found = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert exported.config.num_labels == 1
    assert exported.dropout.p == 0.0
    assert exported.score.bias.tolist() == [0.0]
    assert not (tmp_path / "generation_config.json").exists()


def test_a_reward_model_of_the_hub_says_what_transformers_says(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    made = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint("qwen2-tied"), num_labels=1, dtype=torch.float32
    ).eval()
    made.save_pretrained(tmp_path)
    single_process_group()
    model = ModelConfig(path=str(tmp_path))
    backend = FsdpBackend(
        model,
        TRAINING,
        FsdpBackendConfig(),
        temperature=1.0,
        total_updates=1,
        updates_per_step=1,
        frozen=True,
        head="score",
    )
    samples = [read_at_end(sample) for sample in make_samples(100)]
    found = by_sample(backend, plan_mini_batch(samples, 60, 10))
    for index, sample in enumerate(samples):
        with torch.no_grad():
            expected = made(input_ids=sample.prompt_ids[None].long()).logits[0]
        torch.testing.assert_close(found[index], expected, rtol=0, atol=1e-5)


def by_sample(backend: FsdpBackend, batch: MiniBatch) -> dict[int, torch.Tensor]:
    values = zip(batch.micro_batches, backend.values(batch.micro_batches), strict=True)
    return {index: said for part, flat in values for index, said in part.split_responses(flat).items()}


def test_refuses_what_is_no_critic(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    policy = tiny_checkpoint("qwen2-tied")
    with pytest.raises(ConfigError, match="cannot be loaded with a linear map to one value"):
        make_critic(save_classifier(policy, tmp_path / "two", labels=2))
    key = r"critic\.path \(model\.path where it is unset\)='.*"
    with pytest.raises(ConfigError, match=key + r"missing': there is no such folder"):
        make_critic(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=key + r"empty' holds no config\.json"):
        make_critic(tmp_path / "empty")
    with pytest.raises(ConfigError, match=key + r"bias': .* without bias; there it is \[1, 32\], with bias"):
        make_critic(save_classifier(policy, tmp_path / "bias", bias=0.5))
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    unknown = Glm4MoeConfig(**shape, num_attention_heads=2, num_key_value_heads=2, first_k_dense_replace=1)
    Glm4MoeForCausalLM(unknown).save_pretrained(tmp_path / "glm")
    with pytest.raises(ConfigError, match=key + "glm' cannot be loaded with a linear map to one value"):
        make_critic(tmp_path / "glm")
