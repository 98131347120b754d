"""Weights, gradients and optimizer of a model on one rank, as each backend holds them.

ZeRO's account (arXiv 1910.02054, section 3.1): weights, gradients and Adam's two moments, divided among the ranks that
share them.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.config.training import FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.plan.architecture import Architecture
from reasoner_rl.plan.setup import Model, Setup

FLOAT32 = 4
MOMENTS = 2  # of AdamW


@dataclass(frozen=True, slots=True)
class State:
    """Bytes on one rank."""

    weights: int  # always, unless they are offloaded
    moments: int  # of the optimizer, from the first update on
    copies: int  # of the weights in float32, which Megatron's optimizer has in bfloat16
    gradients: int
    gathered: int  # whole weights in model.dtype that a pass holds
    gathered_last: int  # those of them that are left when backward ends
    reduction: int  # buffers of the largest group of parameters while its gradient is reduced
    resident_gradients: bool  # whether gradients have buffers between updates too

    @property
    def optimizer(self) -> int:
        """All that is offloaded with the optimizer, but for gradients, which are dropped."""
        return self.moments + self.copies


def state_of(setup: Setup, model: Model) -> State:
    """The state of a model of the run."""
    return _megatron(setup, model) if setup.megatron is not None else _fsdp(setup, model)


def _fsdp(setup: Setup, model: Model) -> State:
    """Float32 shards. The embeddings stay whole during a pass, and of layers the present one and those gathered ahead.

    A rank that shares with no other keeps the whole copy in model.dtype between forward and backward.
    """
    architecture, sharing, element = model.architecture, setup.sharing, setup.element
    backend = setup.config.training.backend
    assert isinstance(backend, FsdpBackendConfig)
    reshard = backend.reshard_after_forward
    whole_layers = 1 + max(1, backend.prefetch_layers)  # PyTorch itself gathers one ahead
    root = architecture.embedding_parameters
    layer = architecture.layer_parameters // architecture.layers
    gathered = (
        root + whole_layers * layer if (sharing > 1 if reshard == "auto" else reshard) else model.parameters
    )
    reduced = model.trained * FLOAT32
    largest = max(root, layer) if model.trained == model.parameters else 0
    return State(
        weights=model.parameters * FLOAT32 // sharing,
        moments=MOMENTS * reduced // sharing,
        copies=0,
        gradients=reduced // sharing,
        gathered=gathered * element,
        gathered_last=(root + layer) * element,
        # The gradient in model.dtype, and float32 input of the reduction.
        reduction=largest * ((element + FLOAT32) if setup.ranks > 1 else FLOAT32) if model.trained else 0,
        resident_gradients=False,
    )


def _megatron(setup: Setup, model: Model) -> State:
    """Weights in model.dtype, float32 gradients, and an optimizer that replicas share (ZeRO-1) if it is distributed."""
    backend = setup.megatron
    assert backend is not None
    experts = megatron_experts(setup, model.architecture)
    own = megatron_parameters(setup, model.architecture)
    optimized = own  # that the rank's part of the optimizer updates
    if backend.distributed_optimizer:
        # Experts that expert parallelism divides have fewer replicas than the rest of the model.
        holders = _expert_ranks(backend) * backend.pipeline_parallel
        optimized = (own - experts) // (setup.replicas * backend.context_parallel)
        optimized += experts // (setup.ranks // holders)
    trained = bool(model.trained)
    copied = trained and setup.element < FLOAT32
    return State(
        weights=own * setup.element,
        moments=optimized * MOMENTS * FLOAT32 if trained else 0,
        copies=optimized * FLOAT32 if copied else 0,
        gradients=own * FLOAT32 if trained else 0,
        gathered=0,
        gathered_last=0,
        reduction=0,
        resident_gradients=trained,
    )


def megatron_parameters(setup: Setup, architecture: Architecture) -> int:
    """Parameters of the largest stage's part of a layer's, and of the embeddings'; a tied matrix is on both ends."""
    backend = setup.megatron
    assert backend is not None
    shared = architecture.layer_parameters - architecture.expert_parameters
    layers = shared // backend.tensor_parallel // backend.pipeline_parallel
    embedding = architecture.embedding_parameters // backend.tensor_parallel
    if backend.pipeline_parallel > 1:  # one of the two, on the first and on the last stage
        embedding = architecture.vocabulary * architecture.hidden // backend.tensor_parallel
    return layers + megatron_experts(setup, architecture) + embedding


def megatron_experts(setup: Setup, architecture: Architecture) -> int:
    """Parameters of a rank's experts."""
    backend = setup.megatron
    assert backend is not None
    return architecture.expert_parameters // _expert_ranks(backend) // backend.pipeline_parallel


def _expert_ranks(backend: MegatronBackendConfig) -> int:
    """Ranks among which a layer's experts are divided: `reasoner_rl.training.megatron.moe.sizes`."""
    return backend.expert_parallel if backend.expert_parallel > 1 else backend.tensor_parallel
