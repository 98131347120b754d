"""Writing a Hugging Face checkpoint from a stream of whole tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
)

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.training.backend import Head
from reasoner_rl.training.disk_space import follow_umask
from reasoner_rl.training.policy import peft_config
from reasoner_rl.training.value import ARCHITECTURES, HEAD_BIAS, HEAD_WEIGHT, critic_architecture


def write_checkpoint(
    folder: Path, model: ModelConfig, weights: Iterator[tuple[str, Tensor]], head: Head = "policy"
) -> None:
    """Write ``weights`` in ``model.dtype``, with the architecture and generation settings of ``model.path``.

    A critic is written as a token classification with one label, a reward model as a sequence classification, their
    heads in float32.
    Rank 0 writes, and alone holds the tensors; every rank must call this and exhausts the stream.
    """
    if dist.get_rank() == 0:
        save_weights(folder, model, weights, head)
    else:
        for _ in weights:
            pass
    dist.barrier()


def save_weights(
    folder: Path, model: ModelConfig, weights: Iterable[tuple[str, Tensor]], head: Head = "policy"
) -> None:
    """What `write_checkpoint` writes, from one process that has all tensors."""
    dtype = getattr(torch, model.dtype)
    held = {
        name: tensor.to("cpu", torch.float32 if name == HEAD_WEIGHT else dtype) for name, tensor in weights
    }
    shell = _policy_shell(model, dtype) if head == "policy" else _critic_shell(model, dtype, head)
    if HEAD_BIAS in shell.state_dict():
        held[HEAD_BIAS] = torch.zeros(1)  # transformers' head has one
    shell.save_pretrained(folder, state_dict=held)
    follow_umask(folder)


def save_adapters(folder: Path, model: ModelConfig, adapters: Iterable[tuple[str, Tensor]]) -> None:
    """Write LoRA's adapters alone, in ``model.dtype``, as peft's `PeftModel.from_pretrained` and vLLM read them.

    adapters: as `training.saved.saved_adapters` gives them.
    """
    assert model.lora is not None
    held = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.to(
            getattr(torch, model.dtype)
        ).contiguous()
        for name, tensor in adapters
    }
    described = peft_config(model.lora, "CAUSAL_LM")
    described.base_model_name_or_path, described.inference_mode = model.path, True
    described.save_pretrained(folder)
    save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    follow_umask(folder)


def _policy_shell(model: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The architecture without weights, with the generation settings."""
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    config.dtype = dtype
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    with contextlib.suppress(OSError):  # there are none: what the architecture says holds
        shell.generation_config = GenerationConfig.from_pretrained(model.path)
    return shell


def _critic_shell(model: ModelConfig, dtype: torch.dtype, head: Head) -> PreTrainedModel:
    config = critic_architecture(model)
    config.dtype = dtype
    with torch.device("meta"):
        shell: PreTrainedModel = ARCHITECTURES[head].from_config(
            config, trust_remote_code=model.trust_remote_code
        )
    return shell
