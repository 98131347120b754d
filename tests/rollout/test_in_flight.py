"""Which responses are still to come, and turns of the embedded engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.rollout.hf_engine import build_hf_engine
from reasoner_rl.rollout.in_flight import InFlight
from reasoner_rl.types import Rollout

SAMPLING = SamplingConfig(max_response_tokens=9)


def rollout(token: int) -> Rollout:
    return Rollout((token,), (-0.5,), "stop", 0, "")


def request(number: int, samples: int = 2, prompt: tuple[int, ...] = (5, 6)) -> GenerationRequest:
    return GenerationRequest(prompt, samples, seed=number, number=number)


def test_responses_come_in_their_order_whatever_order_they_finish_in() -> None:
    flight = InFlight()
    flight.add([request(4), request(9)], SAMPLING)
    flight.record(9, 1, rollout(91))
    flight.record(4, 1, rollout(41))
    assert not flight.any_finished
    assert flight.take() == StepOutput([], 2)
    flight.record(4, 0, rollout(40))
    assert flight.any_finished
    assert flight.take() == StepOutput([(4, [rollout(40), rollout(41)])], 1)
    assert flight, "request 9 lacks a response"
    flight.clear()
    assert not flight


def test_what_cannot_be_taken_on() -> None:
    flight = InFlight()
    with pytest.raises(ValueError, match="request 1 has an empty prompt"):
        flight.add([request(1), request(2, prompt=())], SAMPLING)
    flight.add([request(1)], SAMPLING)
    with pytest.raises(ValueError, match="request number 1 is in flight already"):
        flight.add([request(1)], SAMPLING)
    with pytest.raises(ValueError, match="another sampling are in flight"):
        flight.add([request(2)], SamplingConfig(max_response_tokens=3))


@pytest.fixture
def engine(tiny_checkpoint: Callable[[str], Path], tiny_tokenizer: Any) -> Any:
    config = ModelConfig(path=str(tiny_checkpoint("llama-untied")))
    return build_hf_engine(config, HfEngineConfig(max_batch_sequences=3), tiny_tokenizer, torch.device("cpu"))


def test_the_embedded_engine_generates_in_steps_and_forgets_what_is_cancelled(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingConfig(max_response_tokens=30, min_response_tokens=30)
    monkeypatch.setattr("reasoner_rl.rollout.hf_engine.MAX_DECODING_STEPS", 20)
    engine.submit([request(0), request(1), request(2)], sampling)  # six responses, three at a time
    assert engine.step() == StepOutput(tokens=60)
    with pytest.raises(RuntimeError, match="nothing in flight"):
        engine.sleep()
    output = engine.step()
    assert output.responses == 3
    assert [number for number, _ in output.finished] == [0], "of request 1 a response has not begun"
    engine.cancel()
    assert engine.step() == StepOutput()
    engine.submit([request(1)], sampling)
    assert engine.step() == StepOutput(tokens=40)
    [(number, group)] = engine.step().finished
    assert (number, len(group)) == (1, 2)
    engine.sleep()
