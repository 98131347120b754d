"""Learning-rate schedules by values worked out by hand, and what is decayed."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from reasoner_rl.config.training import OptimizerConfig, ScheduleConfig
from reasoner_rl.training.optimizer import (
    build_optimizer,
    build_schedule,
    learning_rate_factor,
    parameter_groups,
)


def factors(warmup_updates: int, total_updates: int, count: int, **config: Any) -> list[float]:
    schedule = ScheduleConfig(**config)
    return [learning_rate_factor(schedule, u, warmup_updates, total_updates) for u in range(count)]


def test_warm_up_rises_evenly_and_never_trains_with_a_rate_of_zero() -> None:
    assert factors(3, 10, 5, kind="constant") == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_constant() -> None:
    assert factors(0, 3, 6, kind="constant") == [1.0] * 6


def test_linear_falls_from_the_end_of_warm_up_to_the_final_ratio() -> None:
    expected = [0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert factors(1, 5, 7, kind="linear") == pytest.approx(expected)
    expected = [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert factors(0, 4, 6, kind="linear", final_ratio=0.2) == pytest.approx(expected)


def test_cosine() -> None:
    half = (1 + math.cos(math.pi / 4)) / 2
    expected = [1.0, half, 0.5, 1 - half, 0.0, 0.0]
    assert factors(0, 4, 6, kind="cosine") == pytest.approx(expected)
    expected = [0.5, 1.0, 0.55, 0.1]
    assert factors(1, 3, 4, kind="cosine", final_ratio=0.1) == pytest.approx(expected)


def test_a_warm_up_as_long_as_the_run() -> None:
    assert factors(2, 2, 3, kind="linear") == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_the_schedule_counts_updates_and_its_configuration_steps() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=10.0)
    config = ScheduleConfig(kind="linear", warmup_steps=1)
    schedule = build_schedule(optimizer, config, total_updates=6, updates_per_step=2)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([10 / 3, 20 / 3, 10.0, 7.5, 5.0, 2.5])


def small_model() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(False)
    return model


def test_matrices_decay_vectors_do_not_and_frozen_weights_are_left_out() -> None:
    model = small_model()
    decayed, spared = parameter_groups(model.named_parameters(), weight_decay=0.1)
    assert decayed == {"params": [model[1].weight], "weight_decay": 0.1}
    assert spared["weight_decay"] == 0.0
    assert [id(p) for p in spared["params"]] == [  # type: ignore[attr-defined]
        id(p) for p in (model[1].bias, model[2].weight, model[2].bias)
    ]


def test_decay_acts_on_matrices_alone() -> None:
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.5, weight_decay=0.2))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrink = 0.9 if name == "1.weight" else 1.0  # 1 - lr x decay
        torch.testing.assert_close(parameter.detach(), before[name] * shrink, msg=name)


def test_the_optimizer_takes_its_numbers_from_the_configuration() -> None:
    optimizer = build_optimizer(small_model(), OptimizerConfig(lr=3e-4, betas=(0.8, 0.95), eps=1e-6))
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.95), 1e-6)


def test_the_fused_kernel_is_adamw_and_its_state_is_too() -> None:
    """The plain loop takes over the fused kernel's state, as of a checkpoint, and makes the same updates."""
    config = OptimizerConfig(lr=1e-2, weight_decay=0.1)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5))

    def update(trained: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        for parameter in trained.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * number).sin_()
        optimizer.step()

    fused_model, plain_model = model(), model()
    fused = build_optimizer(fused_model, config)
    assert fused.defaults["fused"]
    plain = torch.optim.AdamW(
        parameter_groups(plain_model.named_parameters(), config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        foreach=False,
    )
    for number in range(1, 4):
        update(fused_model, fused, number)
        update(plain_model, plain, number)
    state = deepcopy(fused.state_dict())
    for group in state["param_groups"]:
        group |= {"fused": None, "foreach": False}
    plain.load_state_dict(state)
    update(fused_model, fused, 4)
    update(plain_model, plain, 4)
    for ours, theirs in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
