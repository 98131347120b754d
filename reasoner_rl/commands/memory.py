"""Memory between the phases of a command that load models of their own, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import torch

from reasoner_rl.commands.own_process import in_own_process
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.recipes import AnsweringConfig, EvalConfig
from reasoner_rl.config.rollout import VllmEngineConfig

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


def run_phase(
    what: str,
    config: AnsweringConfig | EvalConfig,
    function: Callable[[*Arguments], R],
    *arguments: *Arguments,
) -> R:
    """Return ``function(*arguments)``, which loads models as ``config`` says, and have their memory given back.

    vLLM keeps memory of the device until its process ends, and with sleep mode it cannot be started twice in one. So a
    phase with vLLM has a process of its own (`in_own_process`, which says what that asks of a function; a program that
    calls this needs ``if __name__ == "__main__"``). Ray's workers have theirs anyway. what: the phase, for messages.
    """
    generates = isinstance(config, EvalConfig) or config.generates
    with_ray = isinstance(config.cluster, RayClusterConfig)
    if generates and not with_ray and isinstance(config.rollout.engine, VllmEngineConfig):
        return in_own_process(what, function, *arguments)
    value = function(*arguments)
    give_back_memory()
    return value


def give_back_memory() -> None:
    """Drop the models of a phase that has ended before the next one loads its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
