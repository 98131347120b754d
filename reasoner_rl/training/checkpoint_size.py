"""How large a run's first checkpoint will be."""

from __future__ import annotations

import torch

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.training.policy import load_causal_lm, prepare

_FLOAT32_BYTES = 4
_MOMENTS = 2  # of AdamW, for every trained weight


def checkpoint_bytes(config: ModelConfig) -> int | None:
    """Bytes of weights and moments of the optimizer in float32, which a checkpoint holds at the least.

    Read off the architecture; None if the model cannot be read: loading it later reports why.
    """
    try:
        model = load_causal_lm(config, torch.float32, "eager", empty=True)
        prepare(model, config)
    except ConfigError:
        return None
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return _FLOAT32_BYTES * (weights + _MOMENTS * trained)
