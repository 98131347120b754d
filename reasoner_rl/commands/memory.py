"""Memory between the phases of a command that load models of their own, one after the other."""

from __future__ import annotations

import gc

import torch


def give_back_memory() -> None:
    """Drop the models of a phase that has ended before the next one loads its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
