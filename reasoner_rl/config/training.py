"""The optimizer, its schedule, and the backend that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from reasoner_rl.config.base import Section, UserPathOrName, overlay, refuse_without_effect


class OptimizerConfig(Section):
    """AdamW (arXiv 1711.05101). Norms and biases are never decayed."""

    lr: float = Field(1e-6, gt=0, description="Learning rate after warm-up.")
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Decay of the running mean and square of the gradient."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator.")
    weight_decay: float = Field(0.1, ge=0, description="Decay of matrices, per step, times lr.")
    grad_clip: float | None = Field(1.0, gt=0, description="Largest global gradient norm; null: not clipped.")

    @field_validator("betas")
    @classmethod
    def _means_decay(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("must both be at least 0 and below 1")
        return betas


class ScheduleConfig(Section):
    """Learning rate over the updates of a run."""

    kind: Literal["constant", "linear", "cosine"] = Field("constant", description="Shape after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises from 0.")
    final_ratio: float = Field(0.0, ge=0, le=1, description="Rate at the end over lr, for linear and cosine.")

    @model_validator(mode="after")
    def _the_end_is_reached(self) -> Self:
        if self.kind == "constant":
            refuse_without_effect(self, ["final_ratio"], "with kind 'constant'")
        return self


class FsdpBackendConfig(Section):
    """PyTorch FSDP2 (`fully_shard`); works in one process too."""

    kind: Literal["fsdp"] = Field("fsdp", description="Chooses this backend.")
    reshard_after_forward: bool | Literal["auto"] = Field(
        "auto",
        description="Free gathered weights between forward and backward; auto: when there is more than "
        "one rank.",
    )
    shard_ranks: int | None = Field(
        None,
        ge=1,
        description="Workers that share one copy of weights, gradients and optimizer; copies are kept equal (HSDP). As "
        "few as hold it, best those of one machine. All workers if unset.",
    )
    prefetch_layers: int = Field(
        1,
        ge=0,
        description="Layers whose weights are gathered ahead while one computes; each takes the memory of a whole "
        "layer. 0 leaves the order to PyTorch. Of no effect where a worker holds the whole model.",
    )
    compile_layers: bool = Field(
        False,
        description="Compile the decoder layers with torch.compile, attention excepted. The first update then takes "
        "minutes longer, and again where a run is resumed without PyTorch's cache of compiled code.",
    )

    def data_parallel_size(self, ranks: int) -> int:
        """Into how many shares a batch is divided: one per worker."""
        return ranks

    def data_parallel_rank(self, rank: int, ranks: int) -> int:
        """Which share a rank trains on."""
        del ranks
        return rank


class MegatronBackendConfig(Section):
    """Megatron-core; needs the extra `megatron`. Workers that no parallelism takes make data-parallel replicas."""

    kind: Literal["megatron"] = Field("megatron", description="Chooses this backend.")
    tensor_parallel: int = Field(1, ge=1, description="Workers that share each layer, within a machine.")
    pipeline_parallel: int = Field(1, ge=1, description="Workers that share the stack of layers.")
    virtual_stages: int = Field(
        1,
        ge=1,
        description="Parts of the stack that each pipeline worker holds; more keep it less idle and communicate more.",
    )
    context_parallel: int = Field(
        1, ge=1, description="Workers that share each sequence: for sequences too long for one."
    )
    expert_parallel: int = Field(
        1,
        ge=1,
        description="Workers among which the experts of a mixture-of-experts model are divided, each whole on one of "
        "them; at 1 tensor_parallel workers share each expert as they share any other layer.",
    )
    distributed_optimizer: bool = Field(
        True, description="Divide the optimizer's state among data-parallel replicas (ZeRO-1)."
    )
    overlap_reduction: bool = Field(
        False,
        description="Reduce gradients among replicas while the backward pass still makes the rest of them.",
    )
    layers: Literal["auto", "transformer_engine", "local"] = Field(
        "auto",
        description="What layers are made of on a GPU: transformer_engine, or local, which is megatron-core's own with "
        "PyTorch's attention, slower and without TransformerEngine; auto: transformer_engine where it is installed. On "
        "a CPU they are always local.",
    )
    vocabulary_multiple: int = Field(
        1,
        ge=1,
        description="The vocabulary is padded to a multiple of this for each tensor-parallel worker; 128 suits GPUs.",
    )

    def data_parallel_size(self, ranks: int) -> int:
        """Into how many shares a batch is divided: one per data-parallel replica."""
        return ranks // (self.tensor_parallel * self.context_parallel * self.pipeline_parallel)

    def data_parallel_rank(self, rank: int, ranks: int) -> int:
        """Which share a rank trains on. Megatron counts tensor, then context ranks, then replicas, then stages."""
        return rank // (self.tensor_parallel * self.context_parallel) % self.data_parallel_size(ranks)


BackendConfig = Annotated[FsdpBackendConfig | MegatronBackendConfig, Field(discriminator="kind")]


class CriticConfig(Section):
    """The model that predicts returns. What is not said here is as for the policy: see model and training."""

    path: UserPathOrName | None = Field(
        None,
        description="Folder of a checkpoint, or a name on the hub: a policy, whose decoder gets a new head that "
        "predicts 0, or a critic or reward model with a head of its own (token classification with one label). "
        "model.path if unset.",
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(lr=1e-5), description="The critic's optimizer.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The critic's learning-rate schedule.")
    offload: Literal["none", "optimizer", "all"] | None = Field(
        None,
        description="What of the critic moves to host memory while a GPU generates or trains the policy; "
        "training.offload if unset.",
    )

    @field_validator("optimizer", mode="before")
    @classmethod
    def _keep_the_preset(cls, given: Any) -> Any:
        """Let `{grad_clip: 0.5}` change one key of the critic's preset and keep its lr."""
        if not isinstance(given, Mapping):
            return given
        return overlay(cls.model_fields["optimizer"].default.model_dump(), given)


class TeacherConfig(Section):
    """A frozen model whose distribution the policy learns. What is not said here is as for the policy: see model."""

    path: UserPathOrName = Field(
        description="Folder of a checkpoint, or a name on the hub, with the policy's tokenizer."
    )
    offload: Literal["none", "all"] | None = Field(
        None,
        description="Whether the teacher moves to host memory while a GPU generates or trains the policy; if unset, as "
        "training.offload says of weights.",
    )


class TrainingConfig(Section):
    """How weights are updated."""

    backend: BackendConfig = Field(FsdpBackendConfig(), description="What trains: fsdp or megatron.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="The optimizer.")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="What of a model moves to host memory while a GPU generates or another model has its turn: "
        "nothing, the optimizer's state, or that and the weights. It holds for the reference policy too.",
    )
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning-rate schedule.")
    logprob_chunk_tokens: int = Field(
        1024,
        ge=1,
        description="Response tokens whose logits exist at one time; bounds memory at large vocabularies.",
    )
