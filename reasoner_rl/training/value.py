"""The critic as the trainer sees it: packed tokens in, values of the states before response tokens out.

A reward model is the same with another name: its score is the value of the state after a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.tokenizer import text_config
from reasoner_rl.training.attention import choose_attention
from reasoner_rl.training.backend import Head, path_key
from reasoner_rl.training.policy import predicting_states, prepare, require_checkpoint
from reasoner_rl.types import MicroBatch, ValueOutputs

# The head's name in a checkpoint, as in transformers' classification of tokens, or of sequences, with one label.
HEAD_WEIGHT, HEAD_BIAS = "score.weight", "score.bias"
# What checkpoints are written as: values are of tokens, and a score is of a whole sequence.
ARCHITECTURES: dict[Head, Any] = {
    "value": AutoModelForTokenClassification,
    "score": AutoModelForSequenceClassification,
}


class Critic(nn.Module):
    """A transformers decoder under a linear map hidden -> 1 without bias, which is computed in float32."""

    def __init__(self, model: PreTrainedModel, attention: str) -> None:
        super().__init__()
        self.model = model
        self.attention = attention

    @property
    def head(self) -> nn.Linear:
        """The linear map."""
        head = self.model.score
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, batch: MicroBatch) -> ValueOutputs:
        """Return the values [N] of the states before the response tokens."""
        hidden = predicting_states(self.model, self.attention, batch)
        # A sum over one entry instead of indexing, because FSDP does not accept a view.
        return ValueOutputs(self.head(hidden.float()).sum(-1))


def critic_architecture(config: ModelConfig) -> Any:
    """The transformers configuration of a checkpoint as a critic: one label per token, and no dropout before it."""
    read: Any = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    read.num_labels = 1
    read.classifier_dropout = 0.0
    return read


def load_critic(
    config: ModelConfig,
    attention: str,
    head: Head = "value",
    *,
    empty: bool = False,
    needs_head: bool = False,
) -> PreTrainedModel:
    """Load the decoder of a checkpoint and its head in float32; without one in the checkpoint the head is zero.

    A critic that says 0 of everything is the same on any number of ranks. ``empty``: see `load_causal_lm`.
    needs_head: the model will not be trained, so a checkpoint without a head is of no use.
    Raises ConfigError naming the key of the path if it cannot be read, lacks the head that it needs, or has a head that
    is no map hidden -> 1 without bias.
    """
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "attn_implementation": attention,
        "trust_remote_code": config.trust_remote_code,
    }
    missing: set[str] = set()
    try:
        read = critic_architecture(config)
        if empty:
            with init_empty_weights(include_buffers=False):
                model = AutoModelForTokenClassification.from_config(read, **options)
        else:
            with _without_loading_report():
                model, found = AutoModelForTokenClassification.from_pretrained(
                    config.path, config=read, output_loading_info=True, **options
                )
            missing = found["missing_keys"]
    except (OSError, ValueError, RuntimeError) as error:  # of the wrong shape: RuntimeError
        raise ConfigError(
            f"{path_key(head)}={config.path!r} cannot be loaded with a linear map to one value: {error}"
        ) from error
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ConfigError(f"model of type {type(model).__name__} has no linear layer named 'score'")
    if HEAD_WEIGHT in missing:
        require_trained(needs_head, head, config.path)
        nn.init.zeros_(model.score.weight)
    elif not empty:
        require_head_without_bias(model.score.weight, model.score.bias, head, config.path)
    model.score.register_parameter("bias", None)
    return model


@contextmanager
def _without_loading_report() -> Iterator[None]:
    """Silence transformers' warning that a head or its bias is new, which is intended or refused here."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def require_trained(needs_head: bool, head: Head, path: str) -> None:
    """Raise ConfigError about a checkpoint that has no head, if it needs one."""
    if needs_head:
        raise ConfigError(
            f"{path_key(head)}={path!r}: the checkpoint holds no {HEAD_WEIGHT}, so it gives no scores: name a model "
            "that a recipe of kind reward_model has trained, or one for sequence classification with one label"
        )


def require_head_without_bias(weight: Tensor, bias: Tensor | None, head: Head, path: str) -> None:
    """Raise ConfigError if a checkpoint's head is no map hidden -> 1, or adds a constant."""
    if len(weight) != 1 or (bias is not None and bias.any()):
        raise ConfigError(
            f"{path_key(head)}={path!r}: the head must be {HEAD_WEIGHT} [1, hidden] without bias; there it is "
            f"{list(weight.shape)}, {'with' if bias is not None and bias.any() else 'without'} bias"
        )


def build_critic(
    config: ModelConfig,
    device: torch.device,
    head: Head = "value",
    *,
    empty: bool = False,
    needs_head: bool = False,
) -> Critic:
    """Load the critic with float32 master weights, frozen and adapted as configured; its head is always trained.

    ``empty``, and where the weights are: see `build_policy`. ``needs_head``: see `load_critic`.
    """
    require_checkpoint(config.path, head)
    attention = choose_attention(config.attention, device, getattr(torch, config.dtype), text_config(config))
    model = load_critic(config, attention, head, empty=empty, needs_head=needs_head)
    prepare(model, config)
    critic = Critic(model, attention)
    critic.head.requires_grad_(True)
    return critic
