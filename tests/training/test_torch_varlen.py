"""The bounds that PyTorch's flash kernel is given, and what is refused. On the CPU its definition stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DeepseekV3Config, GPT2Config, Qwen2Config, Qwen3Config

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.training import attention as choice
from reasoner_rl.training import torch_varlen as varlen
from reasoner_rl.training.attention import choose_attention
from reasoner_rl.training.attention_limits import head_widths, varlen_problem
from reasoner_rl.training.policy import build_policy
from reasoner_rl.training.shared_prompts import SharedPrompts
from reasoner_rl.training.torch_varlen import TORCH_VARLEN, PackedBounds, torch_varlen
from reasoner_rl.training.value import build_critic
from reasoner_rl.training.varlen_sdpa import VARLEN_SDPA
from reasoner_rl.types import TrainSample

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def flash_on_a_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> Tensor:
    """The kernel's definition, a sequence at a time: the last query sees the last key."""
    assert window_size == (-1, 0)
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    outputs = []
    for n in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[n] : cu_seq_q[n + 1]].transpose(0, 1)
        k, v = (part[cu_seq_k[n] : cu_seq_k[n + 1]].transpose(0, 1) for part in (key, value))
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        groups = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_kernel", lambda: (flash_on_a_cpu, {}))
    monkeypatch.setattr(choice, "has_kernel", lambda device: True)


def sample(prompt: list[int], response: list[int]) -> TrainSample:
    return TrainSample(
        prompt_ids=torch.tensor(prompt),
        response_ids=torch.tensor(response),
        loss_mask=torch.ones(len(response), dtype=torch.bool),
        advantages=torch.ones(len(response)),
        rollout_logprobs=torch.zeros(len(response)),
    )


def test_a_shared_prompt_is_computed_once_and_seen_by_every_response(
    stand_in: None, tiny_checkpoint: Callable[[str], Path]
) -> None:
    samples = [
        sample([5, 6, 7], [8, 9]),
        sample([4], [3, 2, 1]),
        sample([5, 6, 7], [9]),
        sample([5, 6, 7], [1, 1, 7, 8]),
    ]
    [batch] = plan_mini_batch(samples, 100, 8).micro_batches
    config = ModelConfig(path=str(tiny_checkpoint("qwen2-tied")))
    expected = build_policy(
        config, 7, CPU
    )  # varlen_sdpa, which test_attention.py and test_shared_prompts.py check
    actual = build_policy(config, 7, CPU)
    actual.attention = choice._register(TORCH_VARLEN, torch_varlen)
    actual.model.set_attn_implementation(TORCH_VARLEN)
    found: list[Any] = []
    for policy in (expected, actual):
        outputs = policy(batch)
        (outputs.logprobs * torch.arange(1.0, 11.0)).sum().backward()
        found.append((outputs.logprobs.detach(), {n: p.grad for n, p in policy.model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_bounds_of_queries_skip_what_is_computed_elsewhere() -> None:
    samples = [sample([5, 6, 7], [8, 9]), sample([5, 6, 7], [9]), sample([4], [3, 2])]
    [batch] = plan_mini_batch(samples, 100, 8).micro_batches
    shared = SharedPrompts.of(batch)
    assert shared is not None
    bounds = PackedBounds.of(batch.cu_seqlens, batch.max_seqlen, shared)
    lengths = sorted(zip(bounds.queries.diff().tolist(), bounds.keys.diff().tolist(), strict=True))
    assert lengths == [(1, 4), (3, 3), (5, 5)]
    assert (bounds.longest_query, bounds.longest_key) == (5, 5)
    assert bounds.queries.dtype == bounds.keys.dtype == torch.int32
    alone = PackedBounds.of(batch.cu_seqlens, batch.max_seqlen)
    assert torch.equal(alone.queries, alone.keys)
    assert alone.stand_ins is None


def test_refuses_what_the_kernel_does_not_do(stand_in: None) -> None:
    q = torch.randn(1, 2, 4, 8)
    bounds = PackedBounds.of(torch.tensor([0, 4]), 4)
    module = torch.nn.Identity()
    with pytest.raises(ValueError, match="needs the keyword packed_bounds"):
        torch_varlen(module, q, q, q, None)
    with pytest.raises(ValueError, match="sliding window of 3"):
        torch_varlen(module, q, q, q, None, sliding_window=3, packed_bounds=bounds)
    with pytest.raises(UserError, match="does not know Identity's softcap"):
        torch_varlen(module, q, q, q, None, packed_bounds=bounds, softcap=2.0)
    with pytest.raises(UserError, match=r"dropout 0\.1, widths 8 and 8"):
        torch_varlen(module, q, q, q, None, dropout=0.1, packed_bounds=bounds)
    with pytest.raises(UserError, match="widths 8 and 4"):
        torch_varlen(module, q, q, q[..., :4], None, packed_bounds=bounds)
    attended, _ = torch_varlen(module, q, q, q, None, scaling=0.3, packed_bounds=bounds)
    expected = scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3)
    torch.testing.assert_close(attended, expected.transpose(1, 2))


def test_it_is_what_auto_chooses_on_a_gpu_in_sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "has_kernel", lambda device: device.type == "cuda")
    assert choose_attention("auto", GPU, torch.bfloat16) == TORCH_VARLEN
    assert choose_attention("auto", GPU, torch.float32) != TORCH_VARLEN
    assert choose_attention("auto", CPU, torch.bfloat16) != TORCH_VARLEN
    with pytest.raises(ConfigError, match=r"torch_varlen needs model\.dtype=bfloat16; it is float32"):
        choose_attention("torch_varlen", GPU, torch.float32)
    with pytest.raises(ConfigError, match="torch_varlen needs a CUDA device; this run is on cpu"):
        choose_attention("torch_varlen", CPU, torch.bfloat16)
    monkeypatch.setattr(choice, "has_kernel", lambda device: False)
    with pytest.raises(ConfigError, match=r"needs PyTorch 2\.11 or newer"):
        choose_attention("torch_varlen", GPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("config", "problem", "with_flash_attn"),
    [
        (Qwen2Config(attention_dropout=0.1), r"dropout 0\.1 of attention", "flash_attention_2"),
        (GPT2Config(attn_pdrop=0.2), r"dropout 0\.2 of attention", "flash_attention_2"),
        (
            Qwen2Config(hidden_size=1024, num_attention_heads=2),
            r"heads of widths 512 \(keys\) and 512 \(values\)",
            VARLEN_SDPA,
        ),
        (Qwen3Config(head_dim=288), "heads of widths 288", VARLEN_SDPA),
        (Qwen2Config(hidden_size=200, num_attention_heads=10), "heads of widths 20", "flash_attention_2"),
        (
            DeepseekV3Config(),
            r"heads of widths 192 \(keys\) and 128 \(values\), and the kernel does one width, a multiple of 8 up",
            "flash_attention_2",
        ),
    ],
)
def test_auto_looks_at_the_model(
    config: Any, problem: str, with_flash_attn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_kernel", lambda device: True)
    for installed, expected in ((None, VARLEN_SDPA), (object(), with_flash_attn)):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, installed=installed: installed)
        assert choose_attention("auto", GPU, torch.bfloat16, config) == expected
    with pytest.raises(ConfigError, match=f"model.attention=torch_varlen: the model has {problem}"):
        choose_attention("torch_varlen", GPU, torch.bfloat16, config)


def test_auto_is_given_the_model_that_is_built(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def choose(wanted: Any, device: Any, dtype: Any, config: Any) -> str:
        seen.append((config.model_type, head_widths(config), varlen_problem(config)))
        return choose_attention(wanted, device, dtype, config)

    for module in ("policy", "value"):
        monkeypatch.setattr(f"reasoner_rl.training.{module}.choose_attention", choose)
    config = ModelConfig(path=str(tiny_checkpoint("qwen3-untied")))
    build_policy(config, 7, CPU)
    build_critic(config, CPU)
    assert seen == [("qwen3", {(8, 8)}, None)] * 2


def test_the_kernel_is_asked_for_only_where_it_is_built_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of PyTorch for GPUs without flash attention has the function, and fails when it is called."""
    monkeypatch.setattr(varlen, "_kernel", lambda: (flash_on_a_cpu, {}))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for built in (True, False):
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda built=built: built)
        assert varlen.has_kernel(GPU) is built
    assert not varlen.has_kernel(CPU)
    monkeypatch.setattr(varlen, "has_kernel", lambda device: True)
    heads = {width: torch.empty(3, 2, width, dtype=torch.bfloat16) for width in (8, 12, 256, 264)}
    assert [varlen.can_attend(heads[width], heads[width]) for width in heads] == [True, False, True, False]
    assert not varlen.can_attend(heads[256], heads[8])
    assert not varlen.can_attend(heads[8].float(), heads[8].float())


def test_this_pytorch_has_the_kernel_with_the_arguments_that_are_passed() -> None:
    attend, options = varlen._kernel()
    assert attend is not None
    assert options in ({}, {"enable_gqa": True})
