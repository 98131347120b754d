"""What Megatron's layers are made of: TransformerEngine, or PyTorch alone (`local_layers.py`).

megatron-core imports TransformerEngine wherever it finds it, so the choice is made before megatron-core is imported.
This module imports neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Literal

import torch
import torch.distributed as dist

from reasoner_rl.errors import ConfigError

Layers = Literal["transformer_engine", "local"]
KEY, PACKAGE = "training.backend.layers", "transformer_engine"

logger = logging.getLogger(__name__)
_told: set[str] = set()


def settle_layers(wanted: Layers | Literal["auto"], device: torch.device) -> Layers:
    """Choose the layers of this process's trainers, print what ``auto`` chose, and make megatron-core comply.

    With local layers nothing else of TransformerEngine is used either, not even its optimizer: the run is that of a
    machine without it. Raises ConfigError where TransformerEngine is wanted and cannot be used.
    """
    on_gpu = device.type == "cuda"
    layers, notice = choose_layers(wanted, on_gpu, _import_error() if on_gpu and wanted != "local" else None)
    if layers == "local" and PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is not None:
        sys.modules[PACKAGE] = None  # type: ignore[assignment]  # importing it raises ModuleNotFoundError
    if notice and notice not in _told and not (dist.is_initialized() and dist.get_rank()):
        logger.warning(notice)
        _told.add(notice)
    return layers


def choose_layers(
    wanted: Layers | Literal["auto"], on_gpu: bool, error: BaseException | None
) -> tuple[Layers, str | None]:
    """The layers, and what the user should know of the choice.

    error: what importing TransformerEngine raises: ModuleNotFoundError where it is not installed. Ignored on a CPU.
    """
    if not on_gpu:
        if wanted == "transformer_engine":
            raise ConfigError(
                f"{KEY}=transformer_engine needs a CUDA device, and this run is on a CPU. Use auto"
            )
        return "local", None
    if wanted == "local":
        return "local", None
    if error is None:
        return "transformer_engine", None
    if not isinstance(error, ModuleNotFoundError) or error.name != PACKAGE:
        raise ConfigError(
            f"TransformerEngine is installed, but importing it raises {type(error).__name__}: {error}. Repair the "
            f"installation (docs/how_to/megatron.md), or train with {KEY}=local, which does not use it"
        ) from error
    if wanted == "transformer_engine":
        raise ConfigError(
            f"{KEY}=transformer_engine needs the package {PACKAGE!r}, which is not installed: docs/how_to/megatron.md "
            "says how to get it. auto and local train without it, more slowly"
        )
    return "local", (
        "TransformerEngine is not installed: Megatron's layers are those of megatron-core with PyTorch's attention "
        f"({KEY}=local), which are slower and take more memory. docs/how_to/megatron.md says how to get it"
    )


def _import_error() -> BaseException | None:
    """What importing TransformerEngine for PyTorch raises, or nothing."""
    if PACKAGE in sys.modules and sys.modules[PACKAGE] is None:
        return RuntimeError(
            "a trainer of this process was built with local layers, without TransformerEngine"
        )
    if importlib.util.find_spec(PACKAGE) is None:
        return ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    try:
        # By itself the package also imports where its part for PyTorch is missing or broken.
        importlib.import_module(f"{PACKAGE}.pytorch")
    except Exception as error:  # OSError, AssertionError, RuntimeError, ... by what is wrong
        return error
    return None
