"""Memory of one rank by phase, and of the hosts.

Phases and what is there in each of them: docs/understand/roles_and_placement.md, "Phases and memory".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.plan.activations import activations
from reasoner_rl.plan.cache import embedded_cache, logits_of_rows, vllm_weights
from reasoner_rl.plan.hardware import GIB
from reasoner_rl.plan.setup import Model, Setup
from reasoner_rl.plan.state import FLOAT32, State, state_of

# What a process takes of a GPU before any tensor: the CUDA context, and libraries such as cuBLAS and NCCL. An estimate.
CONTEXT_BYTES = int(1.0 * GIB)
# The share of a GPU that PyTorch's allocator cannot use because freed blocks do not fit new tensors. An estimate.
FRAGMENTATION = 0.05
CONTEXT, POOL = (
    "CUDA context and libraries",
    "vLLM's pool",
)  # names of parts that PyTorch's allocator does not count
DRIVER_BYTES_PER_TOKEN = 13  # per response token of a step: docs/results.md, "The driver of a large step"


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes, and what they are."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What the device of one rank holds at the fullest moment of a phase."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory by phase, per GPU, and of the machine that has the driver."""

    phases: tuple[Phase, ...]
    host: tuple[Part, ...]  # of one machine, the one with driver and rank 0; on a CPU besides the phases

    @property
    def largest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    def phase(self, name: str) -> Phase:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)


def plan_memory(setup: Setup, *, first_step: bool = False) -> MemoryPlan:
    """Memory of every phase of a step.

    first_step: before the first update optimizers have no moments.
    """
    phases = []
    if setup.config.generates:
        phases.append(_phase("generate", [*_resting(setup, None, first_step), *_generation(setup)]))
    for model in setup.models:
        kinds = ["update"] if model.trained else []
        if is_asked(setup, model):
            kinds.insert(0, "values" if model.role in ("critic", "reward_model") else "logprobs")
        for kind in kinds:
            parts = [
                *_resting(setup, model, first_step),
                *_asleep(setup),
                *_turn(setup, model, kind, first_step and kind != "update"),
            ]
            phases.append(_phase(f"{kind} {model.role}", parts))
    if setup.config.generates:
        phases.append(_phase("sync", _sync(setup)))
    if not setup.hardware.on_cpu:
        context = Part(CONTEXT, CONTEXT_BYTES)
        phases = [Phase(phase.name, (*phase.parts, context)) for phase in phases]
    return MemoryPlan(tuple(phases), tuple(part for part in _host(setup) if part.bytes))


def _phase(name: str, parts: Sequence[Part]) -> Phase:
    return Phase(name, tuple(part for part in parts if part.bytes))


def is_asked(setup: Setup, model: Model) -> bool:
    """Whether a forward pass without gradient is made: by a policy for old logprobs, and in KTO."""
    config = setup.config
    if model.role != "policy":
        return True
    if isinstance(config, PreferenceConfig):
        return isinstance(config.algorithm, KtoConfig)
    if not isinstance(config, OnlineConfig) or config.algorithm.loss.old_logprobs == "rollout":
        return False
    return step_arithmetic(config).updates_per_step > 1 or config.algorithm.loss.old_logprobs == "recompute"


def _held(state: State, what: str, first_step: bool) -> list[Part]:
    """Weights and optimizer, and gradients where they have buffers for good."""
    gradients = state.gradients if state.resident_gradients else 0
    return [
        Part(f"{what}: weights", state.weights),
        Part(f"{what}: optimizer", state.copies if first_step else state.optimizer),
        Part(f"{what}: gradients", gradients),
    ]


def _resting(setup: Setup, in_turn: Model | None, first_step: bool) -> list[Part]:
    """What models keep on the device that have no turn. On a CPU nothing can go elsewhere."""
    parts: list[Part] = []
    for model in setup.models:
        if in_turn is not None and model.role == in_turn.role:
            continue
        state = state_of(setup, model)
        if setup.hardware.on_cpu or model.offload == "none":
            parts += _held(state, model.role, first_step)
        elif model.offload == "optimizer":
            parts.append(Part(f"{model.role}: weights", state.weights))
    return parts


def _turn(setup: Setup, model: Model, kind: str, without_moments: bool) -> list[Part]:
    """The model whose turn it is, at the fullest of three moments of an update.

    When backward begins, there are all activations, the head's temporaries and, but for the first micro-batch,
    gradients; when it has begun, what a layer computes again and differentiates besides; and when it ends, all
    gradients and the buffers of the last reduction.
    """
    architecture, state = model.architecture, state_of(setup, model)
    held = [
        Part(f"{model.role}: weights", state.weights),
        Part(f"{model.role}: optimizer", state.copies if without_moments else state.optimizer),
    ]
    acts = activations(setup, architecture)
    gathered = Part("weights of the pass in model.dtype", state.gathered)
    has_head = model.role not in ("critic", "reward_model")
    if kind != "update":
        resident = state.gradients if state.resident_gradients else 0
        head = head_bytes(setup, model, gradient=False) if has_head else 0
        passing = max(head, acts.forward_only)
        return [
            *held,
            Part("gradients", resident),
            gathered,
            Part("logits" if head >= acts.forward_only else "activations", passing),
        ]
    head = head_bytes(setup, model, gradient=True) if has_head else 0
    before = state.gradients if setup.micro_batches > 1 or state.resident_gradients else 0
    begins = [
        Part("gradients", before),
        gathered,
        Part("activations", acts.saved),
        Part("logits and their gradient", max(head, 0)),
    ]
    layers = [
        Part("gradients", before),
        gathered,
        Part("activations", acts.saved + acts.working),
        Part("logits and their gradient", _kept_head_gradient(setup, model) if has_head else 0),
    ]
    ends = [
        Part("gradients", state.gradients),
        Part(gathered.name, state.gathered_last),
        Part("buffers of the reduction", state.reduction),
        Part("activations", acts.working),
    ]
    fullest = max([begins, layers, ends], key=lambda parts: sum(part.bytes for part in parts))
    return [*held, *fullest]


def head_bytes(setup: Setup, model: Model, *, gradient: bool) -> int:
    """The output embedding's temporaries, besides hidden states.

    FSDP2 has the logits of logprob_chunk_tokens tokens alone, in float32 twice, and in backward the float32 gradient of
    the whole embedding (training/token_logprobs.py). Megatron has its part of the logits of all tokens of the
    micro-batch, and of response tokens a second time, which stay; in backward their gradient and then that of all of
    them (training/megatron/vocab.py).
    """
    architecture, element = model.architecture, setup.element
    tokens, responses = setup.micro_batch_tokens, setup.micro_batch_sequences * setup.longest_response
    rows = min(setup.config.training.logprob_chunk_tokens, responses)
    if (megatron := setup.megatron) is None:
        chunk = rows * architecture.vocabulary * 2 * FLOAT32
        hidden = responses * architecture.hidden * element * (2 if gradient else 1)
        if not gradient:
            return chunk + hidden
        matrix = architecture.vocabulary * architecture.hidden
        # bfloat16: the product of a chunk beside the sum; the float32 gradient of its logits is freed by then.
        product = matrix * element if element < FLOAT32 else 0
        chunk = rows * architecture.vocabulary * (FLOAT32 + element) if product else chunk
        return chunk + hidden + (matrix * FLOAT32 if model.trained else 0) + product
    columns = architecture.vocabulary // megatron.tensor_parallel
    rows, tokens, responses = (-(-n // megatron.context_parallel) for n in (rows, tokens, responses))
    every, predicting = tokens * columns * element, responses * columns * element
    chunk = rows * columns * 4 * FLOAT32
    forward = every + predicting + chunk
    return max(forward, 2 * predicting + max(chunk, every)) if gradient else forward


def _kept_head_gradient(setup: Setup, model: Model) -> int:
    """What is left of the head's temporaries while layers are differentiated: with FSDP2 its gradient."""
    matrix = model.architecture.vocabulary * model.architecture.hidden
    return (
        matrix * setup.element if setup.megatron is None and setup.micro_batches == 1 and model.trained else 0
    )


def _generation(setup: Setup) -> list[Part]:
    if (vllm := setup.vllm) is not None:
        if setup.hardware.on_cpu:
            return [Part("vLLM: weights", vllm_weights(setup))]
        whole = (setup.hardware.memory_gib or 0) * GIB
        return [Part(POOL, int(vllm.gpu_memory_utilization * whole))]
    return [
        Part("rollout copy of the weights", _rollout_copy(setup)),
        Part("keys and values", embedded_cache(setup)),
        Part("logits", logits_of_rows(setup)),
    ]


def _rollout_copy(setup: Setup) -> int:
    return setup.policy.architecture.parameters * setup.engine_element


def _asleep(setup: Setup) -> list[Part]:
    """What the rollout engine keeps of the device while models train."""
    if setup.embedded is not None and setup.hardware.on_cpu:
        return [Part("rollout copy of the weights", _rollout_copy(setup))]
    if (vllm := setup.vllm) is not None and (vllm.share_weights or setup.hardware.on_cpu):
        return _generation(setup)
    return []


def _sync(setup: Setup) -> list[Part]:
    """Both copies of the weights, and what is in transit: two buckets and one tensor. Keys and values come after it."""
    policy, state = setup.policy, state_of(setup, setup.policy)
    moved = not setup.hardware.on_cpu and policy.offload != "none"
    weights = vllm_weights(setup) if setup.vllm is not None else _rollout_copy(setup)
    shared = setup.vllm is not None and setup.vllm.share_weights
    largest = policy.architecture.vocabulary * policy.architecture.hidden
    bucket = setup.config.rollout.sync_bucket_bytes(on_gpu=not setup.hardware.on_cpu)
    buckets = min(2 * bucket, policy.parameters * setup.sync_element)
    in_transit = 0 if setup.ranks == 1 else buckets + largest * setup.sync_element
    others = [
        part for part in _resting(setup, policy, first_step=False) if not part.name.startswith("policy")
    ]
    return [
        *others,
        Part("policy: weights", state.weights),
        Part("policy: optimizer", 0 if moved else state.optimizer),
        Part("policy: gradients", state.gradients if state.resident_gradients and not moved else 0),
        Part("rollout copy of the weights", 0 if shared else weights),
        Part("buckets and largest tensor in transit", in_transit),
    ]


def pinned_rounding(setup: Setup, model: Model) -> float:
    """Pinned host memory per byte moved: PyTorch rounds it up to a power of two for each tensor.

    With Megatron buffers move in pieces of 256 MiB, which need no rounding.
    """
    if setup.megatron is not None:
        return 1.0
    architecture = model.architecture
    matrices = [(architecture.layers, x.inputs * x.outputs) for x in architecture.linears]
    matrices.append((architecture.embeddings, architecture.vocabulary * architecture.hidden))
    sizes = [(count, numbers * FLOAT32 // setup.sharing) for count, numbers in matrices]
    rounded = sum(count * 2 ** (size - 1).bit_length() for count, size in sizes)
    return rounded / sum(count * size for count, size in sizes)


def _host(setup: Setup) -> list[Part]:
    """Of the machine with the driver and rank 0, but for what Python and libraries take."""
    parts = []
    if not setup.hardware.on_cpu:
        for model in setup.models:
            state = state_of(setup, model)
            moved = {"none": 0, "optimizer": state.optimizer, "all": state.optimizer + state.weights}
            rounding = pinned_rounding(setup, model)
            pinned = int(setup.ranks_per_machine * moved[model.offload] * rounding)
            parts.append(Part(f"{model.role}: offloaded, pinned", pinned))
        if setup.vllm is not None and setup.vllm.sleep_level == 1 and not setup.vllm.share_weights:
            parts.append(Part("vLLM's weights asleep", setup.ranks_per_machine * vllm_weights(setup)))
        if setup.megatron is None and setup.ranks > 1:
            largest = max(model.parameters for model in setup.models)
            parts.append(Part("rank 0 reads the checkpoint in float32, at the start", largest * FLOAT32))
        parts.append(Part("rank 0 exports the weights, at the end", setup.policy.parameters * setup.element))
    if isinstance(setup.config, OnlineConfig):
        arithmetic = step_arithmetic(setup.config)
        in_flight = max(arithmetic.responses_per_step, arithmetic.responses_in_flight)
        tokens = in_flight * setup.longest_response
        parts.append(Part("driver: responses of a step", tokens * DRIVER_BYTES_PER_TOKEN))
    return parts
