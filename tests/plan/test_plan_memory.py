"""Memory of a plan against hand calculation, and against the tensors that autograd saves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.model import GradientCheckpointing, ModelConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.config.training import FsdpBackendConfig, TrainingConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.plan.activations import activations, kept_and_recomputed, layer_numbers
from reasoner_rl.plan.architecture import read_architecture
from reasoner_rl.plan.cache import vllm_concurrency
from reasoner_rl.plan.hardware import GIB, hardware
from reasoner_rl.plan.memory import CONTEXT_BYTES, head_bytes, plan_memory
from reasoner_rl.plan.problems import problems
from reasoner_rl.plan.setup import Setup, make_setup
from reasoner_rl.plan.state import state_of
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.training.recompute import ATTENTION_OPERATORS
from reasoner_rl.types import MicroBatch, TokenOutputs, TrainSample

P32 = 32_763_876_352  # Qwen2.5-32B
EMBEDDING = 152_064 * 5120  # one of its two

read = functools.cache(read_architecture)


def setup_of(recipe: str, *overrides: str, on: str = "H100") -> Setup:
    config = load_recipe(recipe, overrides)
    assert isinstance(config, OnlineConfig | PreferenceConfig)
    return make_setup(config, hardware(on), read)


def test_state_of_the_32b_recipe_with_fsdp() -> None:
    """Four copies of 32 ranks: float32 weights, gradients and two moments, each a 32nd."""
    setup = setup_of("dapo_qwen2.5_32b")
    state = state_of(setup, setup.policy)
    assert (state.weights, state.gradients, state.optimizer) == (P32 // 8, P32 // 8, P32 // 4)
    layer = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648 + 5120 + 2 * 1024 + 2 * 5120
    assert state.gathered == 2 * (2 * EMBEDDING + 2 * layer)
    memory = plan_memory(setup)
    assert memory.phase("generate").bytes == P32 // 8 + int(0.8 * 79.1 * GIB) + CONTEXT_BYTES
    assert problems(setup, memory) == []


def test_state_of_the_32b_recipe_with_megatron() -> None:
    """16 ranks share a replica, of which there are 8; the largest stage has one of the embeddings."""
    setup = setup_of("dapo_qwen2.5_32b_megatron")
    state = state_of(setup, setup.policy)
    own = (P32 - 2 * EMBEDDING - 5120) // 8 // 2 + EMBEDDING // 8
    assert (state.weights, state.gradients, state.optimizer) == (2 * own, 4 * own, 12 * own // 8)
    assert problems(setup, plan_memory(setup)) == []


def test_the_cache_of_vllm_for_32b_on_four_gpus() -> None:
    """Two of eight heads of 128 on each: 64 layers x keys and values x 2 x 128 x 2 bytes, as the recipe says."""
    found = vllm_concurrency(setup_of("dapo_qwen2.5_32b"))
    assert found is not None
    assert found.bytes_per_token == 65_536
    assert found.weights == P32 * 2 // 4
    assert found.tokens == (int(0.8 * 79.1 * GIB) - P32 // 2 - 2 * GIB) // 65_536
    assert found.longest == pytest.approx(found.tokens / 22_528)


def test_offloading_moves_state_from_the_device_to_the_host() -> None:
    weights, optimizer = P32 // 8, P32 // 4
    for offload, resting, moved in (
        ("none", weights + optimizer, 0),
        ("optimizer", weights, optimizer),
        ("all", 0, weights + optimizer),
    ):
        memory = plan_memory(setup_of("dapo_qwen2.5_32b", f"training.offload={offload}"))
        pool = int(0.8 * 79.1 * GIB)
        assert memory.phase("generate").bytes - pool - CONTEXT_BYTES == resting
        pinned = sum(part.bytes for part in memory.host if "offloaded" in part.name)
        assert 8 * moved <= pinned < 2 * 8 * moved or moved == pinned == 0


def test_what_was_measured_on_an_h100() -> None:
    """docs/results.md, "An H100": peaks of PyTorch's allocator, and host memory of PPO with offload all on an H200."""
    options = (
        *("model.path=Qwen/Qwen2.5-1.5B", "cluster.kind=local", "batch.micro_batch_tokens=16384"),
        *("data.prompts.max_tokens=160", "rollout.sampling.max_response_tokens=1000"),
        *("reward.overlong.buffer_tokens=100", "rollout.engine.tensor_parallel=1"),
        *("training.backend.shard_ranks=null", "batch.prompts_per_update=2", "batch.prompts_per_step=2"),
    )
    setup = setup_of("dapo_qwen2.5_32b", *options)
    update = plan_memory(setup).phase("update policy").bytes - CONTEXT_BYTES
    assert update / GIB == pytest.approx(
        30.0, rel=0.05
    )  # check `fsdp`: 32 responses in micro-batches of 16,384
    logits = setup_of(
        "dapo_qwen2.5_32b", "data.prompts.max_tokens=1", "rollout.sampling.max_response_tokens=22528"
    )
    head = head_bytes(logits, logits.policy, gradient=True)
    assert head / GIB == pytest.approx(5.5, rel=0.05)  # check `logprobs`: 22,528 x 5,120 x 152,064


def test_pinned_memory_of_ppo_with_three_small_models() -> None:
    """Measured on an H200: 29.7 GiB resident, of which Python, PyTorch and vLLM take some."""
    setup = setup_of(
        "ppo_qwen2.5_1.5b",
        *("model.path=Qwen/Qwen2.5-0.5B", "training.offload=all", "algorithm.kl_in_reward.coefficient=0.1"),
    )
    memory = plan_memory(setup)
    pinned = sum(part.bytes for part in memory.host if "offloaded" in part.name)
    moved = (12 + 12 + 4) * 494_032_768
    assert moved < pinned < 29.7 * GIB


def test_every_model_has_its_turns() -> None:
    ppo = [phase.name for phase in plan_memory(setup_of("ppo_qwen2.5_7b")).phases]
    assert ppo == [
        *("generate", "logprobs policy", "update policy", "values critic", "update critic", "sync"),
    ]
    # One update makes every ratio 1, so no old logprobs are computed; a KL term keeps a reference.
    grpo = setup_of("grpo_qwen2.5_1.5b", "batch.prompts_per_update=128")
    names = [phase.name for phase in plan_memory(grpo).phases]
    assert names == ["generate", "update policy", "logprobs reference", "sync"]
    lora = setup_of("grpo_qwen2.5_1.5b", "model.lora={}")
    assert [model.role for model in lora.models] == ["policy"]
    kto = [phase.name for phase in plan_memory(setup_of("kto_qwen2.5_7b")).phases]
    assert [name for name in kto if "reference" in name] == ["logprobs reference"]
    dpo = [phase.name for phase in plan_memory(setup_of("dpo_qwen2.5_7b")).phases]
    assert dpo == ["update policy"]  # the reference's logprobs are precomputed


def saved_bytes(path: Path, lengths: list[int], checkpointing: GradientCheckpointing = False) -> int:
    """Bytes of the tensors that one micro-batch of these responses has saved when the loss is made."""
    single_process_group()
    model = ModelConfig(path=str(path), gradient_checkpointing=checkpointing)
    backend = FsdpBackend(
        model, TrainingConfig(), FsdpBackendConfig(), temperature=1.0, total_updates=1, updates_per_step=1
    )
    saved: dict[int, int] = {}
    at_loss: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def loss(outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        at_loss.append(sum(saved.values()))
        return outputs.logprobs.mean(), {}

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), KeptAttention(note):
        backend.update(plan_mini_batch([response(n, i) for i, n in enumerate(lengths)], 10**6, 1000), loss)
    return at_loss[0]


class KeptAttention(TorchDispatchMode):
    """Notes the outputs that selective checkpointing keeps outside of autograd's saved tensors."""

    def __init__(self, note: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.name() in ATTENTION_OPERATORS:
            for tensor in made:
                self._note(tensor)
        return made


def response(tokens: int, number: int) -> TrainSample:
    ids = torch.arange(tokens + 2) % 50 + 3 + number
    return TrainSample(
        prompt_ids=ids[:2],
        response_ids=ids[2:],
        loss_mask=torch.ones(tokens, dtype=torch.bool),
        advantages=torch.ones(tokens),
        rollout_logprobs=torch.zeros(tokens),
        group=number,
    )


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("qwen2", 6 * 32 + 5 * 32 + 4 * 64),
        # Norms of queries and keys, and two experts of width 32 with copies of what they read and make.
        ("qwen3_moe", 6 * 32 + 5 * 32 + 2 * (32 + 16) + 4 * 2 * 32 + 2 * 2 * 32),
    ],
)
def test_activations_are_what_autograd_saves(
    tiny_checkpoint: Callable[[str], Path], kind: str, numbers: int
) -> None:
    """Four layers less two, so that embeddings and head do not count; 300 tokens less 150: nor do weights."""
    shallow, deep = tiny_checkpoint(f"{kind}-untied"), tiny_checkpoint(f"{kind}-deep-untied")
    saved = [saved_bytes(deep, lengths) - saved_bytes(shallow, lengths) for lengths in ([148, 148], [148])]
    setup = a_run(deep)
    assert layer_numbers(setup, setup.policy.architecture) == numbers
    # Besides: a number per token and norm, one per token and head, and the router's.
    assert (saved[0] - saved[1]) / 2 == pytest.approx(150 * numbers * 4, rel=0.05)
    assert activations(setup, setup.policy.architecture).saved == 4 * 300 * numbers * 4


def test_attention_that_is_kept_is_saved_beside_the_borders(tiny_checkpoint: Callable[[str], Path]) -> None:
    """H + A numbers per token, and besides one per head, the normaliser of its softmax."""
    path, shallow = tiny_checkpoint("qwen2-deep-untied"), tiny_checkpoint("qwen2-untied")
    saved = [
        saved_bytes(path, lengths, "keep_attention") - saved_bytes(shallow, lengths, "keep_attention")
        for lengths in ([148, 148], [148])
    ]
    assert saved[0] - saved[1] == 2 * 150 * (32 + 32 + 4) * 4
    setup = a_run(path, gradient_checkpointing="keep_attention")
    every = layer_numbers(setup, setup.policy.architecture)
    assert kept_and_recomputed(setup, setup.policy.architecture) == (32 + 32, every - 32)
    assert activations(setup, setup.policy.architecture).saved == 4 * 300 * (32 + 32) * 4
    # Megatron makes the feed-forward again, whose five parts of 64 are not kept.
    megatron = a_run(path, gradient_checkpointing="keep_attention", backend="megatron")
    assert kept_and_recomputed(megatron, megatron.policy.architecture) == (6 * 32 + 5 * 32, 5 * 64)


def test_layers_that_are_gathered_ahead_are_whole_meanwhile() -> None:
    states = []
    for count in (0, 1, 3):
        setup = setup_of("dapo_qwen2.5_32b", f"training.backend.prefetch_layers={count}")
        states.append(state_of(setup, setup.policy).gathered)
    layer = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648 + 5120 + 2 * 1024 + 2 * 5120
    assert states == [states[0], states[0], states[0] + 2 * 2 * layer]


def test_interleaved_stages_hold_more_than_plain_ones() -> None:
    """Korthikanti et al., section 4.2.3: 1 + (p - 1) / (p m) times as much, of p = 2 stages of m chunks."""
    saved = {}
    for chunks in (1, 2, 4):
        setup = setup_of("dapo_qwen2.5_32b_megatron", f"training.backend.virtual_stages={chunks}")
        saved[chunks] = activations(setup, setup.policy.architecture).saved
    assert saved[2] == saved[1] * (1 + 1 / (2 * 2))
    assert saved[4] == saved[1] * (1 + 1 / (2 * 4))


def test_state_of_experts_that_ranks_divide() -> None:
    """Expert parallelism over all 8 ranks leaves no replica of an expert to share its optimizer with."""
    experts, every = 48 * 128 * 3 * 2048 * 768, 30_532_122_624
    rest = every - experts - 2048
    for ranks, replicas in ((8, 1), (4, 2)):
        setup = setup_of(
            "dapo_qwen2.5_7b",
            *("model.path=Qwen/Qwen3-30B-A3B", "training.backend={kind: megatron}"),
            f"training.backend.expert_parallel={ranks}",
        )
        state = state_of(setup, setup.policy)
        own = rest + experts // ranks
        assert (state.weights, state.gradients) == (2 * own, 4 * own)
        assert state.optimizer == 12 * (rest // 8 + experts // ranks // replicas)


@pytest.mark.parametrize(
    ("path", "ranks", "problem"),
    [
        ("Qwen/Qwen3-30B-A3B", 8, None),
        ("Qwen/Qwen3-30B-A3B", 3, "expert_parallel=3 does not divide the model's 128 experts"),
        ("Qwen/Qwen2.5-7B", 8, "expert_parallel=8 is for a model with experts, and this one has none"),
    ],
)
def test_expert_parallelism_fits_the_model(path: str, ranks: int, problem: str | None) -> None:
    setup = setup_of(
        "dapo_qwen2.5_7b",
        *(f"model.path={path}", "training.backend={kind: megatron}", "cluster.workers_per_node=24"),
        f"training.backend.expert_parallel={ranks}",
    )
    found = [each for each in problems(setup, plan_memory(setup)) if "expert_parallel" in each]
    assert found == ([f"training.backend.{problem}"] if problem else [])


def test_a_critic_has_no_output_embedding() -> None:
    setup = setup_of("ppo_qwen2.5_7b")
    policy, critic = setup.models
    matrix = 152_064 * 3584
    assert critic.parameters == critic.trained == policy.parameters - matrix
    assert critic.architecture.embedding_parameters == matrix
    assert critic.architecture.multiplied_parameters == policy.architecture.multiplied_parameters - matrix
    tied = setup_of("ppo_qwen2.5_1.5b").models  # nothing of its own to leave out
    assert tied[0].parameters == tied[1].parameters


def a_run(path: Path, backend: str = "fsdp", **model: Any) -> Setup:
    """Two sequences of 150 tokens in one micro-batch, on a CPU."""
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": "unused", "steps": 1},
            "model": {"path": str(path), **model},
            "data": {"train": {"path": "unused.jsonl"}, "prompts": {"max_tokens": 2}},
            "rollout": {"responses_per_prompt": 2, "sampling": {"max_response_tokens": 148}},
            "algorithm": {"kind": "grpo"},
            "batch": {"prompts_per_step": 1, "prompts_per_update": 1, "micro_batch_tokens": 300},
            "training": {"backend": {"kind": backend}},
        }
    )
    return make_setup(config, hardware("cpu"), read)


def test_checkpointing_keeps_one_layer_and_the_borders(tiny_checkpoint: Callable[[str], Path]) -> None:
    plain = a_run(tiny_checkpoint("qwen2-deep-untied"))
    checkpointed = a_run(tiny_checkpoint("qwen2-deep-untied"), gradient_checkpointing=True)
    one = 300 * layer_numbers(plain, plain.policy.architecture) * 4
    before = activations(plain, plain.policy.architecture)
    after = activations(checkpointed, checkpointed.policy.architecture)
    assert after.saved == 4 * 300 * 32 * 4
    assert after.working == before.working + one
