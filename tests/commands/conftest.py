"""The command line, and a reward model for the commands that ask one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from reasoner_rl import cli


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


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs `reasoner-rl` with some arguments in this process: status, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reasoner-rl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run
