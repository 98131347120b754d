"""Memory of generation: weights, keys and values, logits; and how many responses fit side by side."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.architecture import Architecture
from reasoner_rl.plan.hardware import GIB
from reasoner_rl.plan.setup import Setup

BLOCK_TOKENS = 256  # room behind the last token that rollout/kv_cache.py allocates, at the least
LOGITS_COPIES = 5  # of [rows, vocabulary] float32 at once in rollout/sampling.py
# What vLLM's pool holds beside weights and cache: activations of its largest pass, CUDA graphs. An estimate.
VLLM_OVERHEAD = int(2.0 * GIB)


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many responses vLLM draws side by side."""

    bytes_per_token: int  # keys and values of all layers, on one GPU
    tokens: int  # that the cache has room for
    longest: float  # sequences of the greatest length that fit
    limit: int  # rollout.engine.max_batch_sequences
    pool: int  # bytes of the pool of one GPU
    weights: int  # bytes of them

    def sequences(self, mean_tokens: float) -> float:
        """Responses side by side, if a sequence has this many tokens on average while it is drawn."""
        return min(self.limit, self.tokens / max(1.0, mean_tokens))


def kv_bytes(architecture: Architecture, element: int, shared_by: int = 1) -> int:
    """Bytes of keys and values of one token on one GPU; tensor-parallel GPUs share the heads, each has one at least."""
    heads = max(1, architecture.kv_heads // shared_by)
    return 2 * architecture.layers * heads * architecture.head_width * element


def vllm_weights(setup: Setup) -> int:
    """Bytes of vLLM's weights on one GPU."""
    engine = setup.vllm
    assert engine is not None
    return setup.policy.architecture.parameters * setup.engine_element // engine.tensor_parallel


def vllm_concurrency(setup: Setup) -> Concurrency | None:
    """Of vLLM on a GPU; None with another engine. ``tokens`` is at most 0 where the pool is too small."""
    engine = setup.vllm
    if engine is None or setup.hardware.on_cpu:
        return None
    per_token = kv_bytes(setup.policy.architecture, setup.engine_element, engine.tensor_parallel)
    pool = int(engine.gpu_memory_utilization * (setup.hardware.memory_gib or 0) * GIB)
    tokens = (pool - vllm_weights(setup) - VLLM_OVERHEAD) // per_token
    longest = tokens / setup.config.max_sequence_tokens
    return Concurrency(per_token, tokens, longest, engine.max_batch_sequences, pool, vllm_weights(setup))


def embedded_rows(setup: Setup) -> int:
    """Responses that the embedded engine draws side by side on one rank: batches of about the same size."""
    engine, config = setup.embedded, setup.config
    assert engine is not None
    if not isinstance(config, OnlineConfig):
        return engine.max_batch_sequences
    prompts = config.batch.prompts_in_flight
    responses = -(-prompts * config.rollout.responses_per_prompt // setup.ranks)
    batches = -(-responses // engine.max_batch_sequences)
    return -(-responses // batches)


def embedded_cache(setup: Setup) -> int:
    """Keys and values of the embedded engine when its batch is longest, and one layer's copy while it grows."""
    architecture, config = setup.policy.architecture, setup.config
    capacity = setup.longest_prompt + BLOCK_TOKENS
    longest = config.max_sequence_tokens
    while capacity < longest:
        capacity += 1 + max(BLOCK_TOKENS, (capacity + 1) // 2)
    rows = embedded_rows(setup)
    whole = rows * capacity * kv_bytes(architecture, setup.engine_element)
    return whole + whole // architecture.layers


def logits_of_rows(setup: Setup) -> int:
    """The logits of one token per row, with what sampling makes of them."""
    return embedded_rows(setup) * setup.policy.architecture.vocabulary * 4 * LOGITS_COPIES
