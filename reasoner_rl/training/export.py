"""Writing a Hugging Face checkpoint from a stream of whole tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from reasoner_rl.config.model import ModelConfig


def write_checkpoint(folder: Path, model: ModelConfig, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Write ``weights`` in ``model.dtype``, with the architecture and generation settings of ``model.path``.

    Rank 0 writes, and alone holds the tensors; every rank must call this and exhausts the stream.
    """
    dtype = getattr(torch, model.dtype)
    writes = dist.get_rank() == 0
    held = {}
    for name, tensor in weights:
        if writes:
            held[name] = tensor.to("cpu", dtype)
    if writes:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
        config.dtype = dtype
        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
        with contextlib.suppress(OSError):  # there are none: what the architecture says holds
            shell.generation_config = GenerationConfig.from_pretrained(model.path)
        shell.save_pretrained(folder, state_dict=held)
    dist.barrier()
