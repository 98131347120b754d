"""Compiled decoder layers against eager ones. What torch.compile traces is run as it is, without generating code.

scripts/bench/compile_layers.py compares what its code generator makes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import CLIP_HIGHER, TRAINING, make_samples
from torch import Tensor
from torch._dynamo.utils import counters

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.training import compiled_layers
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group


def results(path: Path, *, compiled: bool, **model: Any) -> dict[str, Any]:
    """Logprobs of micro-batches with several numbers of tokens, before and after an update, and its weights."""
    single_process_group()
    backend = FsdpBackend(
        ModelConfig(path=str(path), **model),
        TRAINING,
        FsdpBackendConfig(compile_layers=compiled),
        temperature=0.7,
        total_updates=10,
        updates_per_step=1,
    )
    batch = plan_mini_batch(make_samples(100), 40, 64)
    before = torch.cat(backend.logprobs(batch.micro_batches))
    norm = values(backend.update(batch, partial(policy_loss, config=CLIP_HIGHER)))["train/grad_norm"]
    after = torch.cat(backend.logprobs(batch.micro_batches))
    return {"before": before, "after": after, "norm": norm, "weights": dict(backend.full_weights())}


@pytest.mark.slow
def test_compiled_layers_compute_what_eager_ones_do(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_layers, "COMPILER", "eager")
    path = tiny_checkpoint("qwen2-tied")
    eager = results(path, compiled=False)
    counters.clear()
    found = results(path, compiled=True, gradient_checkpointing="keep_attention")
    # Four parts of a layer: without gradients, with them, and again in backward. Layers that are alike share them, and
    # so do numbers of tokens.
    assert counters["stats"]["unique_graphs"] == 3 * 4
    assert found["norm"] == pytest.approx(eager["norm"], rel=1e-6)
    pairs: list[tuple[Tensor, Tensor]] = [(found[key], eager[key]) for key in ("before", "after")]
    pairs += [(found["weights"][name], tensor) for name, tensor in eager["weights"].items()]
    assert found["weights"].keys() == eager["weights"].keys()
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
