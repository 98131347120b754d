"""What makes Megatron faster or smaller and must not change what it computes; on a CPU, with stand-ins for kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_rank import gloo_rank
from parity import CLIP_HIGHER, make_samples
from test_backend_parity import build, by_sample, gradients
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.training.megatron.connections import VARIABLE, device_connections
from reasoner_rl.types import MiniBatch

BACKEND = MegatronBackendConfig(distributed_optimizer=False)


def loss(outputs: Any, batch: Any) -> Any:
    return policy_loss(outputs, batch, config=CLIP_HIGHER)


def test_one_queue_is_set_where_megatron_divides_layers_or_sequences() -> None:
    def variables(*overrides: str, on_gpu: bool = True, **environment: str) -> dict[str, str]:
        recipe = load_recipe("dapo_qwen2.5_32b_megatron", overrides)
        return device_connections(recipe, on_gpu, environment)

    alone = "training.backend.tensor_parallel=1"
    assert variables() == {VARIABLE: "1"}
    assert variables(alone) == {}
    assert variables(alone, "training.backend.context_parallel=2") == {VARIABLE: "1"}
    assert variables(on_gpu=False) == {}
    assert variables(**{VARIABLE: "8"}) == {VARIABLE: "8"}, "the user's own value"
    assert device_connections(load_recipe("dapo_qwen2.5_32b"), True, {}) == {}, "FSDP2"


@pytest.mark.slow
def test_options_do_not_change_what_is_computed(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """In one process, because Megatron on a CPU changes its process for good."""
    pytest.importorskip("megatron.core")
    pytest.importorskip("mbridge")
    paths = {name: tiny_checkpoint(name) for name in ("qwen2-tied", "qwen3_moe-untied")}
    spawn(check_options, (paths, tmp_path), nprocs=1)


def check_options(rank: int, paths: dict[str, Path], folder: Path) -> None:
    with gloo_rank(rank, 1, folder):
        batch = plan_mini_batch(make_samples(100), 40, 64)
        with pytest.MonkeyPatch.context() as patch:
            for path in paths.values():
                check_recomputation(path, batch, patch)
            check_fused_rope(paths["qwen2-tied"], batch, patch)
            check_logits_stay_in_bfloat16(paths["qwen2-tied"], batch, patch)


def check_recomputation(path: Path, batch: MiniBatch, patch: pytest.MonkeyPatch) -> None:
    """Gradients are the same to the bit; attention is called in backward only where all of a layer is made again."""
    from reasoner_rl.training.megatron.local_layers import PackedAttention

    calls: list[int] = []
    attend = PackedAttention.forward
    patch.setattr(
        PackedAttention,
        "forward",
        lambda self, *args, **kwargs: (calls.append(1), attend(self, *args, **kwargs))[1],
    )
    found, called = {}, {}
    for choice in (False, True, "keep_attention"):
        backend = build(path, BACKEND, gradient_checkpointing=choice)
        calls.clear()
        found[choice], called[choice] = gradients(backend, batch, loss), len(calls)
    for choice, each in found.items():
        assert all(torch.equal(each[name], gradient) for name, gradient in found[False].items()), choice
    assert called == {False: called[False], True: 2 * called[False], "keep_attention": called[False]}
    patch.setattr(PackedAttention, "forward", attend)


def rotated(t: Tensor, cu_seqlens: Tensor, freqs: Tensor, cp_size: int = 1, cp_rank: int = 0) -> Tensor:
    """By definition what TransformerEngine's kernel does of packed sequences: position i of each by frequencies i."""
    assert (cp_size, cp_rank) == (1, 0)
    assert freqs.dtype is torch.float32
    positions = torch.cat([torch.arange(int(n)) for n in cu_seqlens.diff()])
    angles = freqs[positions, 0].to(t.dtype)  # [T, 1, width]
    left, right = t.chunk(2, -1)
    return t * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


def check_fused_rope(path: Path, batch: MiniBatch, patch: pytest.MonkeyPatch) -> None:
    """Our packed sequences reach the kernel with the arguments that it expects."""
    from megatron.core.models.common.embeddings import rope_utils

    from reasoner_rl.training.megatron.model import has_fused_rope

    calls = []

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return rotated(*args, **kwargs)

    backend = build(path, BACKEND)
    config = backend._bridge.config
    assert not has_fused_rope()
    assert not config.apply_rope_fusion
    expected = by_sample(backend, batch)
    patch.setattr(rope_utils, "fused_apply_rotary_pos_emb_thd", kernel)
    assert has_fused_rope()
    config.apply_rope_fusion = True
    found = by_sample(backend, batch)
    assert len(calls) == 2 * config.num_layers * len(batch.micro_batches), "queries and keys"
    for index, logprobs in expected.items():
        torch.testing.assert_close(found[index], logprobs, atol=1e-6, rtol=0)


def check_logits_stay_in_bfloat16(path: Path, batch: MiniBatch, patch: pytest.MonkeyPatch) -> None:
    """Megatron would make a float32 copy of all logits; ours of a chunk at a time: the same to the bit."""
    from megatron.core.transformer.module import Float16Module

    forward, dtypes = Float16Module.forward, []

    def patched(upcast: bool) -> Any:
        def call(self: Any, *args: Any, fp32_output: bool = True, **kwargs: Any) -> Any:
            output = forward(self, *args, fp32_output=upcast or fp32_output, **kwargs)
            dtypes.append(output.dtype)
            return output

        return call

    results = []
    for upcast in (False, True):
        patch.setattr(Float16Module, "forward", patched(upcast))
        backend = build(path, BACKEND, dtype="bfloat16")
        results.append((by_sample(backend, batch), gradients(backend, batch, loss)))
        assert set(dtypes) == {torch.float32 if upcast else torch.bfloat16}
        dtypes.clear()
    for ours, upcast_ones in zip(*results, strict=True):
        assert ours.keys() == upcast_ones.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, upcast_ones[key]), key
