"""How many queues a GPU takes work from, which Megatron's overlap of communication and computation depends on.

This module imports neither megatron-core nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner_rl.config.training import MegatronBackendConfig

VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"


def device_connections(config: Any, on_gpu: bool, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable for workers' environment, to be set before CUDA starts; empty where nothing needs it.

    config: a recipe, or what else is launched. environment: the user's, whose value is kept.
    With one queue kernels start in the order of their calls. Megatron's tensor and context parallelism start a
    collective and then the product that it should overlap with, and rely on that order (for speed, not for results).
    FSDP2 is better off with more queues, so nothing is set for it.
    """
    backend = getattr(getattr(config, "training", None), "backend", None)
    if not on_gpu or not isinstance(backend, MegatronBackendConfig):
        return {}
    if backend.tensor_parallel == 1 and backend.context_parallel == 1:
        return {}
    return {VARIABLE: environment.get(VARIABLE, "1")}
