"""Which responses are still to come, and turns of the embedded engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig
from reasoner_rl.rollout.engine import GenerationRequest, Turn
from reasoner_rl.rollout.hf_engine import build_hf_engine
from reasoner_rl.rollout.works import Works
from reasoner_rl.types import Rollout

SAMPLING = SamplingConfig(max_response_tokens=9)


def rollout(token: int) -> Rollout:
    return Rollout((token,), (-0.5,), "stop", 0, "")


def request(number: int, samples: int = 2, prompt: tuple[int, ...] = (5, 6)) -> GenerationRequest:
    return GenerationRequest(prompt, samples, seed=number, number=number)


def test_responses_come_in_their_order_whatever_order_they_finish_in() -> None:
    works = Works()
    works.add([request(4), request(9)], SAMPLING)
    works.record(9, 1, rollout(91))
    works.record(4, 1, rollout(41))
    assert not works.any_finished
    assert works.turn() == Turn([], 2)
    works.record(4, 0, rollout(40))
    assert works.any_finished
    assert works.turn() == Turn([(4, [rollout(40), rollout(41)])], 1)
    assert works, "request 9 lacks a response"
    works.clear()
    assert not works


def test_what_cannot_be_taken_on() -> None:
    works = Works()
    with pytest.raises(ValueError, match="request 1 has an empty prompt"):
        works.add([request(1), request(2, prompt=())], SAMPLING)
    works.add([request(1)], SAMPLING)
    with pytest.raises(ValueError, match="request number 1 is in flight already"):
        works.add([request(1)], SAMPLING)
    with pytest.raises(ValueError, match="another sampling are in flight"):
        works.add([request(2)], SamplingConfig(max_response_tokens=3))


@pytest.fixture
def engine(tiny_checkpoint: Callable[[str], Path], tiny_tokenizer: Any) -> Any:
    config = ModelConfig(path=str(tiny_checkpoint("llama-untied")))
    return build_hf_engine(config, HfEngineConfig(max_batch_sequences=4), tiny_tokenizer, torch.device("cpu"))


def test_the_embedded_engine_works_in_turns_and_forgets_what_is_aborted(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingConfig(max_response_tokens=30, min_response_tokens=30)
    monkeypatch.setattr("reasoner_rl.rollout.hf_engine.TURN_STEPS", 20)
    engine.submit([request(0), request(1), request(2)], sampling)  # six responses, in batches of three
    assert engine.advance() == Turn()
    with pytest.raises(RuntimeError, match="nothing in flight"):
        engine.sleep()
    turn = engine.advance()
    assert turn.responses == 3
    assert [number for number, _ in turn.finished] == [0], "of request 1 a response is in the second batch"
    engine.abort()
    assert engine.advance() == Turn()
    engine.submit([request(1)], sampling)
    assert engine.advance() == Turn()
    [(number, group)] = engine.advance().finished
    assert (number, len(group)) == (1, 2)
    engine.sleep()
