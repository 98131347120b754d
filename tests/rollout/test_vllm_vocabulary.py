"""vLLM on a CPU with ids that no token has, beside an FSDP trainer with the same mask; one start of vLLM."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import SamplingConfig, VllmEngineConfig
from reasoner_rl.config.training import FsdpBackendConfig, OptimizerConfig, TrainingConfig
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.sync_check import SyncCheck, check_token_ids
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.rollout.engine import GenerationRequest
from reasoner_rl.rollout.vllm_engine import VllmRolloutEngine, build_vllm_engine
from reasoner_rl.tokenizer import load_tokenizer, unused_ids
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.types import Rollout, TrainSample

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.usefixtures("vllm_on_cpu")

PROMPT, HOLE = (5, 9, 30, 31), 100  # the hole is in no text of this test
REQUESTS = [GenerationRequest(PROMPT, 32, seed=1)]


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Callable[[str], Path]) -> ModelConfig:
    return ModelConfig(path=str(tiny_checkpoint("qwen2-wide-padded-tied")))


@pytest.fixture(scope="module")
def unused(config: ModelConfig, tiny_tokenizer: Any) -> list[int]:
    padding = unused_ids(config, load_tokenizer(config))
    assert padding == list(range(len(tiny_tokenizer), len(tiny_tokenizer) + 42))
    assert HOLE not in check_token_ids(tiny_tokenizer)
    return [HOLE, *padding]


@pytest.fixture(scope="module")
def vllm(config: ModelConfig, unused: list[int], tiny_tokenizer: Any) -> VllmRolloutEngine:
    single_process_group()
    importlib.import_module("vllm.distributed").destroy_model_parallel()
    engine = VllmEngineConfig(max_batch_sequences=32, max_batched_tokens=512)
    device = torch.device("cpu")
    return build_vllm_engine(
        config, engine, tiny_tokenizer, device, context_tokens=128, seed=0, unused_ids=unused
    )


def as_sample(rollout: Rollout, index: int) -> TrainSample:
    count = len(rollout.token_ids)
    return TrainSample(
        prompt_ids=torch.tensor(PROMPT),
        response_ids=torch.tensor(tuple(rollout.token_ids)),
        loss_mask=torch.ones(count, dtype=torch.bool),
        advantages=torch.full((count,), (-1.0) ** index),
        rollout_logprobs=torch.tensor(rollout.logprobs),
    )


def test_trainer_and_vllm_agree_on_the_ids_that_have_a_token(
    vllm: VllmRolloutEngine, config: ModelConfig, unused: list[int], tiny_tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
    backend = FsdpBackend(
        config,
        TrainingConfig(optimizer=OptimizerConfig(lr=1e-2)),
        FsdpBackendConfig(),
        temperature=0.7,
        total_updates=10,
        updates_per_step=1,
        unused_ids=unused,
    )
    sync_check = SyncCheck("logprobs", check_token_ids(tiny_tokenizer), tolerance=1e-4)
    both = HybridEngine({"policy": backend}, vllm, sync_check, {"policy": "none"})
    for version in range(2):
        assert values(both.publish(version))["sync/check_gap"] < 1e-4
        [group] = both.generate(REQUESTS, SamplingConfig(max_response_tokens=12, temperature=0.7))
        drawn = {token for rollout in group for token in tuple(rollout.token_ids)}
        assert len(drawn) > 20
        assert not drawn & set(unused)
        if version == 0:  # the weights of the checkpoint, by plain transformers
            for rollout in group[:8]:
                ids = torch.tensor([[*PROMPT, *tuple(rollout.token_ids)]])
                with torch.no_grad():
                    logits = model(ids).logits[0, len(PROMPT) - 1 : -1] / 0.7
                free = logits.softmax(-1)
                assert float(free[:, unused].sum(-1).mean()) > 0.1, "without the mask they would be drawn"
                expected = logits.index_fill(-1, torch.tensor(unused), -torch.inf).log_softmax(-1)
                chosen = expected.gather(1, torch.tensor([tuple(rollout.token_ids)]).T)[:, 0]
                torch.testing.assert_close(torch.tensor(rollout.logprobs), chosen, atol=5e-5, rtol=0)
        policy = both.take_turn("policy")
        batch = plan_mini_batch([as_sample(r, i) for i, r in enumerate(group)], 200, 12)
        for micro, computed in zip(batch.micro_batches, policy.logprobs(batch.micro_batches), strict=True):
            assert float((computed - micro.rollout_logprobs).abs().max()) < 1e-4
        policy.update(batch, partial(policy_loss, config=LossConfig()))


def test_a_special_token_ends_a_response_as_end_of_sequence_does(
    vllm: VllmRolloutEngine, config: ModelConfig, tiny_tokenizer: Any
) -> None:
    padding, eos = tiny_tokenizer.pad_token_id, tiny_tokenizer.eos_token_id
    vllm.state = "ready"
    model = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
    vllm.load_weights(((name, p.detach()) for name, p in model.named_parameters()), version=0)
    [plain] = vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=30))
    assert sum(padding in tuple(r.token_ids)[:-1] for r in plain) > 2
    stop = ["<|pad|>", "never written"]
    [stopped] = vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=30, stop=stop))
    for before, after in zip(plain, stopped, strict=True):
        cut = (
            tuple(before.token_ids).index(padding) + 1
            if padding in tuple(before.token_ids)
            else len(before.token_ids)
        )
        assert tuple(after.token_ids) == tuple(before.token_ids)[:cut]
        assert (after.finish_reason == "stop") == (after.token_ids[-1] in (padding, eos))
        assert "<|pad|>" not in after.text
    [late] = vllm.generate(REQUESTS, SamplingConfig(max_response_tokens=30, min_response_tokens=9, stop=stop))
    assert min(len(r.token_ids) for r in late) > 9
