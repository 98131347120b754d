"""A reward model for the commands that ask one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification


@pytest.fixture(scope="session")
def tiny_reward_model(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]
) -> Path:
    """A random pointwise reward model with the tokenizer of the tiny checkpoints."""
    source, path = tiny_checkpoint("qwen2-tied"), tmp_path_factory.mktemp("models") / "pointwise"
    shutil.copytree(source, path)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(path)
    return path
