"""What one micro-batch holds between forward and backward, per rank, counted tensor by tensor.

In the manner of Korthikanti et al. (arXiv 2205.05198), equation 1, for the layers that are really run: pre-norm
decoders with RMSNorm, grouped queries and a gated feed-forward. With H the hidden width, A and K the widths of all
query and of all key heads and F that of the feed-forward, a token of a layer saves for backward

    FSDP2, float32   6 H + 5 A + 4 F      two norms (input, normalised, output); queries, keys and values as every head
                                          reads them, the attention's output and that of unpadding; gate, its SiLU, up,
                                          their product
    FSDP2, bfloat16  8 H + 2 A + 2 K + 4 F    a norm's input is kept in float32; flash attention shares keys among heads
    Megatron, local  6 H + 5 A + 5 F in float32, 4 H + 3 A + 2 K + 5 F in bfloat16: what gate and up are split from, too
    Megatron, TE     4 H + 2 A + 2 K + 3 F    norms fused into the products after them, SwiGLU in one kernel

numbers. Norms of queries and keys, as in Qwen3, add 2 (A + K) with FSDP2 in float32, A + K with TE and 3 (A + K) with
the others. In a mixture of experts that sends a token to k of them F is k times the width of one, and the experts'
copies of the token add 2 k H with FSDP2, which keeps their outputs too, and k H with Megatron. What is in float32 was
compared with the tensors that autograd saves on a CPU; the others are read off the code. With gradient checkpointing
it saves H, and one layer's are made again at a time; where attention's output is kept, FSDP2 saves H + A, and Megatron
all but what is of the feed-forward or of experts. Tensor and sequence parallelism divide all of it by tensor_parallel,
context parallelism by context_parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.plan.architecture import Architecture
from reasoner_rl.plan.setup import Setup


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of one micro-batch on one rank."""

    saved: int  # by all layers of the rank, at the end of the forward pass
    working: int  # besides, while one layer is computed again or differentiated
    forward_only: int  # of a forward pass without gradients, at its widest place


def layer_numbers(setup: Setup, architecture: Architecture) -> int:
    """Numbers that a token of one layer saves for backward: see the table above."""
    return _attention_numbers(setup, architecture) + _feed_forward_numbers(setup, architecture)


def _attention_numbers(setup: Setup, architecture: Architecture) -> int:
    """Those of attention and of both norms."""
    hidden, queries, keys = architecture.hidden, architecture.query_width, architecture.kv_width
    normed = queries + keys if architecture.normed_heads else 0
    copied = setup.element == 4  # varlen_sdpa and Megatron's local attention give every head its own keys
    if setup.megatron is None:
        if copied:
            return 6 * hidden + 5 * queries + 2 * normed
        return 8 * hidden + 2 * (queries + keys) + 3 * normed
    if setup.hardware.on_cpu or setup.megatron.layers == "local":
        attention = 5 * queries if copied else 3 * queries + 2 * keys
        return (6 if copied else 4) * hidden + attention + 3 * normed
    return 4 * hidden + 2 * (queries + keys) + normed


def _feed_forward_numbers(setup: Setup, architecture: Architecture) -> int:
    """Those of the feed-forward, or of the experts that a token is sent to."""
    wide, copies = architecture.feed_forward, architecture.expert_copies
    if setup.megatron is None:
        return 4 * wide + 2 * copies
    local = setup.hardware.on_cpu or setup.megatron.layers == "local"
    return (5 if local else 3) * wide + copies


def kept_and_recomputed(setup: Setup, architecture: Architecture) -> tuple[int, int]:
    """Numbers per token that a layer keeps until its backward pass, and those that it makes again for it."""
    layer, checkpointing = layer_numbers(setup, architecture), setup.config.model.gradient_checkpointing
    if checkpointing is False:
        return layer, 0
    if checkpointing is True:
        return architecture.hidden, layer
    if setup.megatron is None:
        return architecture.hidden + architecture.query_width, layer - architecture.query_width
    again = _feed_forward_numbers(setup, architecture)
    return layer - again, again


def activations(setup: Setup, architecture: Architecture) -> Activations:
    """Of the largest micro-batch, and with pipelines of as many of them as the first stage holds at a time."""
    tokens, layers, flight, divided = setup.micro_batch_tokens, architecture.layers, 1, 1
    if (megatron := setup.megatron) is not None:
        divided = megatron.tensor_parallel * megatron.context_parallel
        layers = layers // megatron.pipeline_parallel
        layers = layers // megatron.virtual_stages  # of one of the rank's chunks
        flight = _chunks_in_flight(megatron.pipeline_parallel, megatron.virtual_stages, setup.micro_batches)
    kept, again = (
        tokens * numbers * setup.element // divided for numbers in kept_and_recomputed(setup, architecture)
    )
    border = tokens * architecture.hidden * setup.element // divided
    # The gradients of what a layer computes: at its widest, those of gate, SiLU, up and their product.
    wide = 2 * (architecture.feed_forward + architecture.hidden + architecture.expert_copies)
    widest = tokens * wide * setup.element // divided
    return Activations(flight * layers * kept, again + widest, widest + 3 * border)


def _chunks_in_flight(stages: int, chunks: int, micro_batches: int) -> int:
    """Chunks of layers whose activations the first stage of a pipeline holds before its first backward pass is done.

    ``stages`` micro-batches of its one chunk; with interleaving more than that (arXiv 2205.05198, section 4.2.3).
    """
    in_flight = stages if chunks == 1 else 2 * (stages - 1) + (chunks - 1) * stages + 1
    return min(in_flight, micro_batches * chunks)
