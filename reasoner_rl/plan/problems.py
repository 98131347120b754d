"""What cannot run as planned, and why."""

from __future__ import annotations

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.cache import vllm_concurrency
from reasoner_rl.plan.hardware import GIB
from reasoner_rl.plan.memory import CONTEXT_BYTES, FRAGMENTATION, POOL, MemoryPlan
from reasoner_rl.plan.setup import Setup
from reasoner_rl.plan.state import state_of

FEW_RESPONSES = 8  # of the greatest length in a replica's cache: below that generation is slow


def problems(setup: Setup, memory: MemoryPlan, host_gib: float | None = None) -> list[str]:
    """Reasons why the recipe cannot run on the hardware, one sentence each; none if it fits.

    host_gib: memory of a machine, where it is known.
    """
    found = _of_division(setup)
    if setup.longest_sequence > (context := setup.policy.architecture.context):
        found.append(
            f"prompts of {setup.longest_prompt} and responses of {setup.longest_response} tokens are longer than the "
            f"{context} tokens that {setup.policy.architecture.name} is made for"
        )
    host = sum(part.bytes for part in memory.host) / GIB
    if setup.hardware.memory_gib is None:
        needed = host + memory.largest.bytes / GIB
        if host_gib is not None and needed > host_gib:
            found.append(
                f"{memory.largest.name} needs {needed:.1f} GiB, and this machine has {host_gib:.1f} GiB"
            )
        return found
    if host_gib is not None and host > host_gib:
        found.append(f"host memory: {host:.1f} GiB are needed of a machine's {host_gib:.1f} GiB")
    return found + _of_devices(setup, memory)


def _of_division(setup: Setup) -> list[str]:
    """Numbers that must divide others: what training/megatron/model.py and vLLM check when they start."""
    architecture, found = setup.policy.architecture, []
    checks = []
    if (megatron := setup.megatron) is not None:
        stages = megatron.pipeline_parallel * megatron.virtual_stages
        checks += [
            ("training.backend.pipeline_parallel x virtual_stages", stages, "layers", architecture.layers),
            (
                "training.backend.tensor_parallel",
                megatron.tensor_parallel,
                "key-value heads",
                architecture.kv_heads,
            ),
        ]
        experts = (
            "training.backend.expert_parallel",
            megatron.expert_parallel,
            "experts",
            architecture.experts,
        )
        if architecture.experts:
            checks.append(experts)
        elif megatron.expert_parallel > 1:
            found.append(f"{experts[0]}={experts[1]} is for a model with experts, and this one has none")
    if (vllm := setup.vllm) is not None:
        ranks = vllm.tensor_parallel
        checks.append(("rollout.engine.tensor_parallel", ranks, "attention heads", architecture.heads))
    for key, size, what, whole in checks:
        if whole % size:
            found.append(f"{key}={size} does not divide the model's {whole} {what}")
    return found


def _of_devices(setup: Setup, memory: MemoryPlan) -> list[str]:
    whole = setup.hardware.memory_gib or 0.0
    found = []
    if (vllm := setup.vllm) is not None:
        found += _of_vllm(setup, vllm.gpu_memory_utilization * whole)
    for phase in memory.phases:
        gib = phase.bytes / GIB
        # vLLM's pool is mapped in large pieces, and does not fragment.
        pool = sum(part.bytes for part in phase.parts if part.name == POOL) / GIB
        if gib > whole - FRAGMENTATION * (whole - pool):
            largest = max(phase.parts, key=lambda part: part.bytes)
            found.append(
                f"{phase.name}: {gib:.1f} GiB do not fit the {whole:.1f} GiB of an {setup.hardware.name}, of which "
                f"{FRAGMENTATION:.0%} are left to fragmentation; the largest part is {largest.name}, "
                f"{largest.bytes / GIB:.1f} GiB"
            )
    return found


def _of_vllm(setup: Setup, pool: float) -> list[str]:
    """vLLM takes its pool when it starts, beside the state of all models, and needs room for one longest response."""
    concurrency = vllm_concurrency(setup)
    assert concurrency is not None
    found = []
    held = CONTEXT_BYTES
    for model in setup.models:
        state = state_of(setup, model)
        # Moments come with the first update.
        held += state.weights + state.copies + (state.gradients if state.resident_gradients else 0)
    free = (setup.hardware.memory_gib or 0.0) - held / GIB
    if free < pool:
        found.append(
            f"start: vLLM's pool of {pool:.1f} GiB (rollout.engine.gpu_memory_utilization) is more than the "
            f"{max(0.0, free):.1f} GiB that the models leave, which are all on the device then"
        )
    if concurrency.longest < 1:
        found.append(
            f"generate: vLLM's pool of {pool:.1f} GiB holds {concurrency.weights / GIB:.1f} GiB of weights and leaves "
            f"room for {max(0, concurrency.tokens):,} tokens, fewer than the {setup.config.max_sequence_tokens:,} of "
            "the longest prompt and response"
        )
    return found


def warnings(setup: Setup) -> list[str]:
    """What will run, and is worth a second look."""
    concurrency = vllm_concurrency(setup)
    found = []
    if concurrency is not None and 1 <= concurrency.longest < FEW_RESPONSES:
        found.append(
            f"only {concurrency.longest:.1f} responses of the greatest length fit vLLM's cache side by side: "
            "generation will be slow"
        )
    if setup.config.batch.micro_batch_tokens < setup.longest_sequence:
        found.append(
            f"batch.micro_batch_tokens={setup.config.batch.micro_batch_tokens} is below the longest sequence, "
            f"{setup.longest_sequence} tokens, which stands alone: memory is planned for that"
        )
    if isinstance(setup.config, OnlineConfig) and setup.config.algorithm.kind == "custom":
        found.append(
            "algorithm.kind custom: models that your algorithm needs beside the policy are not planned"
        )
    return found
