"""A user's own algorithm, or a part of one, named in the recipe.

    algorithm: {kind: custom, fn: my_algorithm.py:build}     a whole algorithm: build(config, updates_per_step)
    algorithm: {advantage: my_algorithm.py:advantages}       advantages of the group family
    algorithm: {loss: {fn: my_algorithm.py:loss}}            the policy's loss of any algorithm

docs/how_to/own_algorithm.md is the guide, and custom_template.py a working example of all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.config.algorithm import CustomConfig, LossConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.plugins import check_call, describe, load_function
from reasoner_rl.training.backend import PolicyLossFunction
from reasoner_rl.types import Role, TrainSample


def build_custom(config: CustomConfig, updates_per_step: int) -> Algorithm:
    """Call the user's ``build``. Raises ConfigError if it cannot be called so, or returns no algorithm with a loss."""
    build = load_function(config.fn, "algorithm")
    call = f"{config.fn.rpartition(':')[2]}(config, updates_per_step)"
    check_call(f"algorithm {config.fn!r}", build, call, config, updates_per_step)
    try:
        built = build(config, updates_per_step)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"algorithm {config.fn!r} raised {describe(error)}") from error
    if not isinstance(built, Algorithm):
        raise ConfigError(
            f"algorithm {config.fn!r} must return a reasoner_rl.algorithms.base.Algorithm; it returned a "
            f"{type(built).__name__}"
        )
    if "policy" not in getattr(built, "losses", {}):
        raise ConfigError(
            f"algorithm {config.fn!r} has no loss for the policy: set losses = {{'policy': ...}} in its __init__"
        )
    _check_roles(config.fn, built)
    return built


def _check_roles(fn: str, built: Algorithm) -> None:
    """Raise ConfigError unless all roles exist, and what is trained is among them and can be trained."""
    roles = [role for role in get_args(Role) if role != "reward_model"]  # which a section of the recipe adds
    if unknown := [role for role in built.roles if role not in roles]:
        raise ConfigError(
            f"algorithm {fn!r} asks for the role {unknown[0]!r}; the roles of models are {', '.join(roles)}"
        )
    trainable = [role for role in built.roles if role not in ("reference", "teacher")]
    if wrong := [role for role in built.losses if role not in trainable]:
        raise ConfigError(
            f"algorithm {fn!r} has a loss for {wrong[0]!r}, and the models that it asks for and that can be trained "
            f"are {', '.join(trainable) or 'none'}: set roles and losses"
        )
    if "critic" in built.roles and "critic" not in built.losses:
        raise ConfigError(f"algorithm {fn!r} asks for a critic and has no loss for it: set losses")


def policy_loss_of(config: LossConfig) -> PolicyLossFunction:
    """The policy's loss: the user's ``loss(outputs, batch, config)`` if there is one, else `policy_loss`.

    Raises ConfigError if the user's cannot be imported or does not take these arguments.
    """
    if config.fn is None:
        return partial(policy_loss, config=config)
    function = load_function(config.fn, "loss")
    call = f"{config.fn.rpartition(':')[2]}(outputs, batch, config=...)"
    check_call(f"loss {config.fn!r}", function, call, None, None, config=config)
    return partial(function, config=config)


def advantages_of(fn: str) -> Callable[[Sequence[TrainSample]], list[Tensor]]:
    """The user's ``advantages(samples)``, as a function that returns advantages [R] float32 of each sample.

    The user's function returns, for each sample, a number for all its tokens or a tensor [R]. The file is read once,
    here, so that an edit of it does not change a run. Raises ConfigError if it cannot be imported or does not take
    this argument, and when it is called if it returns something else.
    """
    function = load_function(fn, "advantage")
    check_call(f"advantage {fn!r}", function, f"{fn.rpartition(':')[2]}(samples)", ())
    return partial(_advantages, fn, function)


def _advantages(fn: str, function: Callable[..., Any], samples: Sequence[TrainSample]) -> list[Tensor]:
    found = function(samples)
    if not isinstance(found, Sequence | Tensor) or len(found) != len(samples):
        raise ConfigError(
            f"advantage {fn!r} must return one entry per sample, and there are {len(samples)}; it returned "
            f"{describe_value(found)}"
        )
    return [_column(fn, value, sample) for value, sample in zip(found, samples, strict=True)]


def _column(fn: str, value: Any, sample: TrainSample) -> Tensor:
    tokens = len(sample.response_ids)
    try:
        column = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):  # no number
        column = None
    if column is not None and column.ndim == 0:
        return column.expand(tokens).clone()
    if column is None or column.shape != (tokens,):
        raise ConfigError(
            f"advantage {fn!r} must return a number or a tensor of {tokens} numbers for a response of {tokens} tokens; "
            f"it returned {describe_value(value)}"
        )
    return column


def describe_value(value: Any) -> str:
    """What something is, for a message."""
    if isinstance(value, Tensor):
        wrong = value[~torch.isfinite(value)].tolist()
        return f"a tensor of shape {list(value.shape)} and {value.dtype}" + (
            f", and holds {wrong[0]}" if wrong else ""
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.100} ({type(value).__name__})"
