"""Tiny models that many tests share; made once a session."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).resolve().parent.parent

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The quickstart's tokenizer."""
    return runpy.run_path(str(ROOT / "scripts" / "make_tiny_model.py"))["build_tokenizer"]()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """A function from a name such as ``qwen2-tied`` or ``llama-wide-untied`` to a tiny random checkpoint's folder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shape = {
        "vocab_size": len(tiny_tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tiny_tokenizer.eos_token_id,
        "pad_token_id": tiny_tokenizer.pad_token_id,
    }

    def make(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        tied = {"tie_word_embeddings": name.endswith("-tied")}
        sizes = (
            {**shape, "hidden_size": 128} if "-wide-" in name else shape
        )  # vLLM wants heads of 32 on a CPU
        torch.manual_seed(0)
        family = name.partition("-")[0]
        if family == "qwen2":
            model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, **tied))
        elif family == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**shape, **tied, head_dim=8))
        elif family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**sizes, **tied))
        else:
            raise ValueError(name)
        # Zero-initialised biases and all-one norms would hide a mistake in exactly those tensors.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        return path

    return make
