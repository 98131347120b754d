"""Gradient checkpointing, all of a layer or all but attention, against the plain path: the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import CLIP_HIGHER, TRAINING, make_samples
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.training.recompute import ATTENTION_OPERATORS

CHOICES = (False, True, "keep_attention")


class Calls(TorchDispatchMode):
    """Counts calls of attention operators and of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.attention += func.name() in ATTENTION_OPERATORS
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def an_update(path: Path, model: dict[str, Any]) -> tuple[dict[str, float], dict[str, Tensor], Calls]:
    """Metrics, whole gradients and calls of one update of a policy."""
    single_process_group()
    torch.manual_seed(0)  # adapters, and their dropout
    backend = FsdpBackend(
        ModelConfig(path=str(path), **model),
        TRAINING,
        FsdpBackendConfig(),
        temperature=0.7,
        total_updates=10,
        updates_per_step=1,
    )
    gradients: dict[str, Tensor] = {}
    clip = backend._clip_gradients

    def catch() -> float:
        for name, parameter in backend._policy.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.full_tensor().clone()  # type: ignore[operator]
        return clip()

    backend._clip_gradients = catch  # type: ignore[method-assign]
    with Calls() as calls:
        metrics = backend.update(
            plan_mini_batch(make_samples(100), 1000, 64), partial(policy_loss, config=CLIP_HIGHER)
        )
    return values(metrics), gradients, calls


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen2-tied", {}),
        ("qwen3_moe-untied", {}),
        ("llama-untied", {"lora": LoraConfig(rank=2, dropout=0.5)}),
    ],
)
def test_what_is_computed_again_changes_nothing(
    name: str, changes: dict[str, Any], tiny_checkpoint: Callable[[str], Path]
) -> None:
    found = {c: an_update(tiny_checkpoint(name), {"gradient_checkpointing": c, **changes}) for c in CHOICES}
    metrics, gradients, plain = found[False]
    for choice in CHOICES[1:]:
        assert found[choice][0] == metrics, choice
        assert found[choice][1].keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert torch.equal(found[choice][1][key], gradient), (choice, key)
    assert plain.attention > 0
    assert found[True][2].attention == 2 * plain.attention
    assert found["keep_attention"][2].attention == plain.attention, "attention is not called in backward"
    assert found["keep_attention"][2].products == found[True][2].products > plain.products


def test_the_names_of_operators_are_pytorchs() -> None:
    pytest.importorskip("torch.nn.attention.varlen")
    for name in ATTENTION_OPERATORS:
        namespace, _, operator = name.partition("::")
        if namespace != "flash_attn":  # a package that is not installed here
            assert getattr(getattr(torch.ops, namespace), operator).default.name() == name


def test_other_choices_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep_attention"):
        ModelConfig.model_validate({"path": "unused", "gradient_checkpointing": "keep_attn"})
