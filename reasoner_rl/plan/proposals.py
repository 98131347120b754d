"""The nearest recipe that fits: the fewest changes of settings that leave results as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from reasoner_rl.plan.setup import Setup

MOST_CHANGES = 3

# The problems of the recipe with these overrides added, or None where it is not a valid recipe.
Judge = Callable[[Sequence[str]], Sequence[str] | None]


def nearest_that_fits(setup: Setup, judge: Judge) -> tuple[str, ...] | None:
    """The overrides that make a recipe fit, as few as can be and of those the cheapest; None if nothing here does."""
    moves = list(changes(setup))
    for count in range(1, MOST_CHANGES + 1):
        for chosen in combinations(moves, count):
            keys = [each.partition("=")[0] for each in chosen]
            if len(set(keys)) == count and judge(chosen) == []:
                return chosen
    return None


def changes(setup: Setup) -> Iterator[str]:
    """Overrides that take less memory and give the same results up to rounding, what costs little time first."""
    config, megatron, vllm = setup.config, setup.megatron, setup.vllm
    if vllm is not None:
        share = vllm.gpu_memory_utilization
        for step in (0.05, 0.1, 0.15, 0.2, 0.3):
            for changed in (share - step, share + step):
                if 0.1 <= changed <= 0.92:
                    yield f"rollout.engine.gpu_memory_utilization={changed:.2f}"
    if setup.longest_sequence < config.batch.micro_batch_tokens:
        size = config.batch.micro_batch_tokens // 2
        while size > setup.longest_sequence:
            yield f"batch.micro_batch_tokens={size}"
            size //= 2
        yield f"batch.micro_batch_tokens={setup.longest_sequence}"
    if not setup.hardware.on_cpu:
        if config.training.offload == "none":
            yield "training.offload=optimizer"
        if config.training.offload != "all":
            yield "training.offload=all"
    if config.model.gradient_checkpointing is False:
        yield "model.gradient_checkpointing=keep_attention"
    if config.model.gradient_checkpointing is not True:
        yield "model.gradient_checkpointing=true"
    if config.training.logprob_chunk_tokens > 256:
        yield "training.logprob_chunk_tokens=256"
    if vllm is not None:
        yield from _doubled("rollout.engine.tensor_parallel", vllm.tensor_parallel, setup.ranks_per_machine)
    if megatron is not None:
        yield from _doubled(
            "training.backend.tensor_parallel", megatron.tensor_parallel, setup.ranks_per_machine
        )
        yield from _doubled("training.backend.pipeline_parallel", megatron.pipeline_parallel, setup.ranks)
        yield from _doubled("training.backend.context_parallel", megatron.context_parallel, setup.ranks)
    else:
        for ranks in _sizes(setup.sharing, setup.ranks):
            yield f"training.backend.shard_ranks={ranks}"
    if config.cluster.kind == "ray":
        nodes = setup.ranks // setup.ranks_per_machine
        yield from _doubled("cluster.nodes", nodes, 8 * nodes)
        yield from _doubled("cluster.workers_per_node", setup.ranks_per_machine, 8)


def _doubled(key: str, size: int, most: int) -> Iterator[str]:
    for each in _sizes(size, most):
        yield f"{key}={each}"


def _sizes(size: int, most: int) -> Iterator[int]:
    while (size := 2 * size) <= most:
        yield size
