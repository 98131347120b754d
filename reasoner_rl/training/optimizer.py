"""AdamW with parameter groups, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from reasoner_rl.config.training import OptimizerConfig, ScheduleConfig
from reasoner_rl.training.device import CopyStream


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Split trainable parameters: matrices decay; norms, biases and other vectors do not."""
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    return [
        {"params": [p for _, p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the trainable parameters of ``model``."""
    return torch.optim.AdamW(
        parameter_groups(model.named_parameters(), config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def move_state(optimizer: torch.optim.Optimizer, device: torch.device, copies: CopyStream) -> None:
    """Move an optimizer's running means and squares to another device.

    They may still be on their way when this returns: see `CopyStream.move`.
    """
    for state in optimizer.state.values():
        for name, value in state.items():
            # AdamW keeps its step count on the CPU unless it is fused on the GPU; it stays where it is.
            if isinstance(value, torch.Tensor) and value.ndim > 0:
                state[name] = copies.move(value, device)


def learning_rate_factor(
    config: ScheduleConfig, update: int, warmup_updates: int, total_updates: int
) -> float:
    """Learning rate of the update with this index (from 0), as a share of the configured one."""
    if update < warmup_updates:
        return (update + 1) / (warmup_updates + 1)
    if config.kind == "constant":
        return 1.0
    progress = min(1.0, (update - warmup_updates) / max(1, total_updates - warmup_updates))
    shape = 1 - progress if config.kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_ratio + (1 - config.final_ratio) * shape


def build_schedule(
    optimizer: torch.optim.Optimizer,
    config: ScheduleConfig,
    total_updates: int,
    updates_per_step: int,
    *,
    updates_made: int = 0,
) -> LambdaLR:
    """A schedule that moves on once per update; ``config`` counts steps. It goes on after ``updates_made``."""
    warmup = config.warmup_steps * updates_per_step
    return LambdaLR(
        optimizer,
        lambda update: learning_rate_factor(config, update, warmup, total_updates),
        last_epoch=updates_made - 1,
    )
