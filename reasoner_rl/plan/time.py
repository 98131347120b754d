"""Seconds of a step, from the roofline of the hardware.

Decoding reads all weights and the keys and values of all responses once per token, so memory bandwidth bounds it;
prefill, logprobs and updates are bound by matrix products. What share of the peaks is reached is assumed, from what was
measured with small models on one H100 and one H200 (docs/results.md, "On a GPU"): nothing was measured on several GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.model import GradientCheckpointing
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.cache import embedded_rows, kv_bytes, vllm_concurrency
from reasoner_rl.plan.setup import Model, Setup
from reasoner_rl.plan.state import FLOAT32, state_of
from reasoner_rl.plan.work import Lengths, Work, forward_flops

# Of a forward pass's exchange among tensor-parallel ranks: with keep_attention Megatron repeats the feed-forward's.
_RECOMPUTED_SHARE: dict[GradientCheckpointing, float] = {False: 0.0, True: 1.0, "keep_attention": 0.5}


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the hardware's peaks, and what does not depend on the model."""

    # Operations per second over the data sheet's, recomputation counted. Measured with 1.5B on one H100 and one H200:
    # 0.26 and 0.29 in updates, 0.29 and 0.31 in logprobs. Larger matrices reach more, communication takes some away.
    compute: float = 0.3
    bandwidth: float = 0.7  # of device memory in decoding; an assumption
    links: float = 0.7  # of links between GPUs and machines; an assumption
    # Of vLLM in this process, per token: 4.5 ms at 64 and 13.2 ms at 256 responses with 0.5B on an H200.
    decode_seconds: float = 1.6e-3
    decode_seconds_per_sequence: float = 4.5e-5
    load_bandwidth: float = 60e9  # bytes per second into the rollout engine: 54 to 59 GiB/s


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Seconds of a step by part."""

    parts: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """The step."""
        return sum(seconds for _, seconds in self.parts)


def plan_time(setup: Setup, work: Work, lengths: Lengths, efficiency: Efficiency) -> TimePlan:
    """Seconds of one step. Rewards are computed while others are drawn, and not counted."""
    parts: list[tuple[str, float]] = []
    if work.generated_tokens:
        computed = setup.ranks * setup.hardware.flops * efficiency.compute
        parts.append(("generation: prompts", work.prefill_flops / computed))
        parts.append(("generation: responses", _decoding(setup, work, lengths, efficiency)))
    for each in work.passes:
        role = each.name.rpartition(", ")[2]
        model = next(model for model in setup.models if model.role == role)
        trained = each.name.startswith("update")
        parts.append(
            (each.name, _training(setup, model, each.tokens, each.flops, efficiency, trained=trained))
        )
    if work.generated_tokens:
        parts.append(("weight sync", _sync(setup, efficiency)))
    moved = _moved(setup) / setup.hardware.host_bandwidth
    if moved:
        parts.append(("moves to host memory and back", moved))
    return TimePlan(tuple(parts))


def decode_step_seconds(setup: Setup, rows: float, context: float, efficiency: Efficiency) -> float:
    """Seconds in which a replica draws one token of each of ``rows`` responses, ``context`` tokens long on average."""
    architecture, hardware = setup.policy.architecture, setup.hardware
    ranks = setup.vllm.tensor_parallel if setup.vllm is not None else 1
    weights = float(architecture.parameters * setup.engine_element // ranks)
    if architecture.experts:  # those that some token of the batch is sent to, if all are equally likely
        reached = 1 - (1 - architecture.experts_per_token / architecture.experts) ** rows
        weights *= 1 - (1 - reached) * architecture.expert_parameters / architecture.parameters
    read = weights + rows * context * kv_bytes(architecture, setup.engine_element, ranks)
    moving = read / (hardware.bandwidth * efficiency.bandwidth)
    computing = rows * forward_flops(architecture, context) / (ranks * hardware.flops * efficiency.compute)
    return max(moving, computing) + efficiency.decode_seconds + rows * efficiency.decode_seconds_per_sequence


def _decoding(setup: Setup, work: Work, lengths: Lengths, efficiency: Efficiency) -> float:
    """Seconds until all responses are drawn.

    A replica is as full as cache and limit allow until its share of the tokens is drawn; the longest response takes as
    many tokens one after the other, whatever else there is.
    """
    ranks = setup.vllm.tensor_parallel if setup.vllm is not None else 1
    replicas = setup.ranks // ranks
    context = lengths.prompt + lengths.response / 2
    share = work.generated_sequences / replicas
    concurrency = vllm_concurrency(setup)
    rows = float(embedded_rows(setup)) if setup.embedded is not None else share
    if concurrency is not None:
        rows = max(1.0, concurrency.sequences(lengths.prompt + lengths.response))
    elif setup.vllm is not None:
        rows = float(setup.vllm.max_batch_sequences)
    rows = min(rows, share)
    step = decode_step_seconds(setup, rows, context, efficiency)
    seconds = share * lengths.response / rows * step
    longest = setup.longest_response * decode_step_seconds(setup, 1, setup.longest_sequence / 2, efficiency)
    return max(seconds, longest)


def _training(
    setup: Setup, model: Model, tokens: float, flops: float, efficiency: Efficiency, *, trained: bool
) -> float:
    """Computation and communication overlap; the slower one counts. A pipeline is idle while it fills and empties."""
    computing = flops / (setup.ranks * setup.hardware.flops * efficiency.compute)
    updates = _updates(setup)
    # At least one in each update; a pass without gradients divides a step's tokens as it likes.
    micro_batches = max(updates if trained else 1, tokens / setup.replicas / setup.micro_batch_tokens)
    if (megatron := setup.megatron) is None:
        return max(computing, _gathering(setup, model, micro_batches, trained, efficiency))
    passes = (3 + _RECOMPUTED_SHARE[setup.config.model.gradient_checkpointing]) if trained else 1.0
    own = tokens / setup.replicas / megatron.context_parallel
    architecture = model.architecture
    # Sequence parallelism gathers and scatters each of attention and feed-forward once in a pass.
    exchanged = 4 * own * architecture.hidden * setup.element * architecture.layers * passes
    exchanged *= (megatron.tensor_parallel - 1) / megatron.tensor_parallel / megatron.pipeline_parallel
    talking = exchanged / (setup.hardware.peer_bandwidth * efficiency.links)
    in_a_row = micro_batches / updates if trained else micro_batches
    bubble = (megatron.pipeline_parallel - 1) / megatron.virtual_stages / in_a_row
    return (computing + talking) * (1 + bubble)


def _gathering(
    setup: Setup, model: Model, micro_batches: float, trained: bool, efficiency: Efficiency
) -> float:
    """Seconds of FSDP2's collectives.

    In every micro-batch weights in forward and backward passes and float32 gradients in backward, among the ranks that
    share them; once per update the sum of a shard's gradients over the copies of the model, which a rank sends and
    receives once each.
    """
    gathered = reduced = 0.0
    gradients = model.trained * FLOAT32 if trained else 0
    if setup.sharing > 1:
        weights = model.parameters * setup.element * (2 if trained else 1)
        gathered = (weights + gradients) / _collective_rate(setup, setup.sharing)
    if (copies := setup.ranks // setup.sharing) > 1:
        one_machine = setup.ranks == setup.ranks_per_machine
        rate = setup.hardware.peer_bandwidth if one_machine else setup.hardware.network_bandwidth
        reduced = 2 * (1 - 1 / copies) * gradients / setup.sharing / rate
    return (micro_batches * gathered + _updates(setup) * reduced) / efficiency.links


def _updates(setup: Setup) -> int:
    """Of one model in a step."""
    return step_arithmetic(setup.config).updates_per_step if isinstance(setup.config, OnlineConfig) else 1


def _collective_rate(setup: Setup, ranks: int) -> float:
    """Bytes per second that each rank receives of what ``ranks`` hold; machines use all their ports together."""
    machines = -(-ranks // setup.ranks_per_machine)
    hardware = setup.hardware
    if machines == 1:
        return hardware.peer_bandwidth
    ports = hardware.network_bandwidth * min(ranks, setup.ranks_per_machine)
    return min(hardware.peer_bandwidth, ports * machines / (machines - 1))


def _sync(setup: Setup, efficiency: Efficiency) -> float:
    """Whole tensors gathered on every rank and loaded, as if neither ran beside the other."""
    whole = setup.policy.architecture.parameters * setup.sync_element
    together = setup.sharing if setup.megatron is None else setup.ranks // setup.replicas
    gathering = whole / (_collective_rate(setup, together) * efficiency.links) if together > 1 else 0.0
    return gathering + whole / efficiency.load_bandwidth


def _moved(setup: Setup) -> int:
    """Bytes that a rank moves to host memory and back in a step, at the least: every model goes and comes once."""
    if setup.hardware.on_cpu:
        return 0
    total = 0
    for model in setup.models:
        state = state_of(setup, model)
        total += {"none": 0, "optimizer": state.optimizer, "all": state.optimizer + state.weights}[
            model.offload
        ]
    return 2 * total
