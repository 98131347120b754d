"""The gradient of PPO-ptx, through the driver's plan and the backend: that of the sum of two losses made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import make_samples, plain_loss
from torch import Tensor
from transformers import AutoModelForCausalLM

from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.metrics import values
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.sources.offline import ExampleStream
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.types import TrainSample

COEFFICIENT = 0.3


def examples(count: int) -> list[TrainSample]:
    """Supervised samples, with a token in each that is not trained, and with advantages that must not count."""
    return [
        sample.replace(supervised=True, old_logprobs=None, advantages=torch.full_like(sample.advantages, 9.0))
        for sample in make_samples(50, count)
    ]


def gradients_of(
    config: OnlineConfig, drawn: list[TrainSample], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients of one update, before clipping, and its metrics."""
    found: dict[str, Tensor] = {}
    clip = FsdpBackend._clip_gradients

    def note(backend: FsdpBackend) -> float:
        for name, parameter in backend._policy.model.named_parameters():
            gradient: Any = parameter.grad
            found[name] = gradient.full_tensor().clone()
        return clip(backend)

    monkeypatch.setattr(FsdpBackend, "_clip_gradients", note)
    stream = ExampleStream([(example,) for example in drawn], OrderedSampler(len(drawn), 0, shuffle=False))
    algorithm = build_algorithm(config, stream)
    workers = Workers(config, algorithm, LocalTransport(build_worker(config)))
    metrics = values(algorithm.update(make_samples(50), workers.models))
    return found, metrics


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 10_000])
def test_the_gradient_is_the_policys_and_that_of_the_examples_by_hand(
    micro_batch_tokens: int, tiny_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"coefficient": COEFFICIENT, "examples_per_update": 3, "data": tiny_run["data"]}
    algorithm = {"kind": "dapo", "ptx": section}
    batch = {"prompts_per_step": 2, "prompts_per_update": 2, "micro_batch_tokens": micro_batch_tokens}
    model_config = {**tiny_run["model"], "dtype": "float32"}
    run = {**tiny_run["run"], "output_dir": "unused"}
    config = OnlineConfig.model_validate(
        {**tiny_run, "run": run, "model": model_config, "algorithm": algorithm, "batch": batch}
    )
    drawn = examples(3)
    found, metrics = gradients_of(config, drawn, monkeypatch)

    model: Any = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    policy, _ = plain_loss(model, make_samples(50), 1.0, LossConfig(clip_low=0.2, clip_high=0.28))
    likelihoods = [log_likelihood(model, example) for example in drawn]
    tokens = sum(int(example.loss_mask.sum()) for example in drawn)
    language = -torch.stack(likelihoods).sum() / tokens
    (policy + COEFFICIENT * language).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-4, msg=name)
    assert metrics["ptx/loss"] == pytest.approx(language.item(), rel=1e-5), "without the coefficient"
    assert metrics["policy/loss"] == pytest.approx(policy.item(), rel=1e-4), "without the examples"


def log_likelihood(model: Any, sample: TrainSample) -> Tensor:
    ids = torch.cat([sample.prompt_ids, sample.response_ids])
    logits = model(input_ids=ids[None]).logits[0, len(sample.prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits, -1).gather(1, sample.response_ids[:, None])[:, 0]
    return (logprobs * sample.loss_mask).sum()
