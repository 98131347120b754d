"""Ids of the model that no token has: both backends against plain transformers with the same mask, in float32."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from parity import (
    CLIP_HIGHER,
    MAX_RESPONSE,
    TEMPERATURE,
    TRAINING,
    UPDATES,
    Reference,
    make_samples,
    plain_reference,
)
from test_backend_parity import TOTAL_UPDATES, by_sample, copied, gradients
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForCausalLM

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values

VOCABULARY = 110
USED = {int(i) for s in make_samples(100) for ids in (s.prompt_ids, s.response_ids) for i in ids}
UNUSED = sorted(set(range(VOCABULARY)) - USED)  # its end, and holes
MODELS = ("qwen2-tied", "llama-scaled-untied")


def masked(path: Path) -> Any:
    """The plain model, whose logits of unused ids are -inf."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    def mask(module: Any, given: Any, output: Any) -> None:
        output.logits = output.logits.index_fill(-1, torch.tensor(UNUSED), -torch.inf)

    model.register_forward_hook(mask)
    return model


def train(folder: Path, backend: BackendConfig, paths: dict[str, Path]) -> None:
    for name, path in paths.items():
        torch.manual_seed(0)
        trained, reference = (
            build_backend(
                ModelConfig(path=str(path)),
                TRAINING.model_copy(update={"backend": backend}),
                temperature=TEMPERATURE,
                total_updates=TOTAL_UPDATES,
                frozen=frozen,
                unused_ids=UNUSED,
            )
            for frozen in (False, True)
        )
        batch, loss = (
            plan_mini_batch(make_samples(100), 40, MAX_RESPONSE),
            partial(policy_loss, config=CLIP_HIGHER),
        )
        found = {
            "logprobs": by_sample(trained, batch),
            "gradients": gradients(trained, batch, loss),
            "metrics": [values(trained.update(batch, loss)) for _ in range(UPDATES)],
            "reference": by_sample(reference, batch),
            "weights": copied(trained),
        }
        torch.save(found, folder / f"{name}.pt")


def train_with_megatron(rank: int, folder: Path, paths: dict[str, Path]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=1)
    train(folder, MegatronBackendConfig(distributed_optimizer=False), paths)
    os._exit(0)


def compare(found: dict[str, Any], expected: Reference) -> None:
    for index, logprobs in enumerate(expected.logprobs):
        torch.testing.assert_close(found["logprobs"][index], logprobs, atol=1e-5, rtol=0)
        torch.testing.assert_close(found["reference"][index], logprobs, atol=1e-5, rtol=0)
    assert [m["policy/loss"] for m in found["metrics"]] == pytest.approx(expected.losses, rel=1e-5, abs=1e-6)
    assert [m["train/grad_norm"] for m in found["metrics"]] == pytest.approx(expected.norms, rel=1e-5)
    decay = torch.tensor([1 - rate * TRAINING.optimizer.weight_decay for rate in expected.rates]).prod()
    for name, weight in expected.weights.items():
        gradient, after = found["gradients"][name], found["weights"][name]
        assert (gradient - expected.gradients[name]).norm() < 1e-5 * expected.gradients[name].norm(), name
        torch.testing.assert_close(after, weight, atol=2e-6, rtol=0, msg=name)
        if len(weight) == VOCABULARY:
            assert not gradient[UNUSED].any(), "exactly zero"
            torch.testing.assert_close(
                after[UNUSED], expected.initial[name][UNUSED] * decay, atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("backend", ["fsdp", "megatron"])
def test_unused_ids_have_no_probability_and_their_rows_only_decay(
    backend: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    assert len(UNUSED) > 40
    assert UNUSED[-1] == VOCABULARY - 1
    paths = {name: tiny_checkpoint(name) for name in MODELS}
    if backend == "fsdp":
        train(tmp_path, FsdpBackendConfig(), paths)
    else:
        pytest.importorskip("megatron.core")
        pytest.importorskip("mbridge")
        spawn(train_with_megatron, (tmp_path, paths), nprocs=1)
    for name, path in paths.items():
        expected = plain_reference(path, masked)
        compare(torch.load(tmp_path / f"{name}.pt", weights_only=False), expected)
        whole = plain_reference(path).logprobs
        assert max(float((a - b).max()) for a, b in zip(expected.logprobs, whole, strict=True)) > 0.1, (
            "it matters"
        )
