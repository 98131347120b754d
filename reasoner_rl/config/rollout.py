"""How responses are generated."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect


class SamplingConfig(Section):
    """The distribution that responses are drawn from."""

    temperature: float = Field(1.0, ge=0, description="Logits are divided by it; 0 is greedy.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Keep the smallest set of tokens with this much probability."
    )
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    max_response_tokens: int = Field(
        1024, ge=1, description="A response is cut off here (finish reason 'length')."
    )
    min_response_tokens: int = Field(
        0,
        ge=0,
        description="What ends a response (end-of-sequence, special tokens in stop) cannot be sampled before this many "
        "tokens; for benchmarks.",
    )
    stop: list[str] = Field(
        [],
        description="Texts that end a response when they appear; kept in the response. A special token, such as "
        "<|im_end|> with a base model, is an entry of its own and acts as a further end-of-sequence token.",
    )

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, stop: list[str]) -> list[str]:
        if "" in stop:
            raise ValueError("stop must not hold an empty text, which would end every response at once")
        return stop

    @model_validator(mode="after")
    def _shortest_is_not_longer_than_longest(self) -> Self:
        if self.min_response_tokens > self.max_response_tokens:
            raise ValueError(
                "min_response_tokens must not exceed max_response_tokens: "
                f"{self.min_response_tokens} exceeds {self.max_response_tokens}"
            )
        return self


class HfEngineConfig(Section):
    """The embedded engine: a batched sampling loop over the transformers model."""

    kind: Literal["hf"] = Field("hf", description="Chooses this engine.")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="Number format; model.dtype if unset."
    )
    max_batch_sequences: int = Field(256, ge=1, description="Responses that are decoded side by side.")


class VllmEngineConfig(Section):
    """vLLM in the same process."""

    kind: Literal["vllm"] = Field("vllm", description="Chooses this engine.")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="Number format; model.dtype if unset."
    )
    max_batch_sequences: int = Field(256, ge=1, description="Responses that are decoded side by side.")
    max_batched_tokens: int = Field(8192, ge=1, description="Most tokens that vLLM reads in one pass.")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one copy of the model.")
    gpu_memory_utilization: float = Field(0.6, gt=0, lt=1, description="Share of the GPU that vLLM may take.")
    enforce_eager: bool = Field(
        False, description="No CUDA graphs: starts faster, decodes slower. Always so on a CPU."
    )
    share_weights: bool = Field(
        False,
        description="Train vLLM's own weights in place, so that there is one copy and a sync moves nothing. For one "
        "process, tensor_parallel 1, float32 on both sides, and training of all weights with fsdp. vLLM then does not "
        "sleep while training.",
    )
    sleep_level: Literal[1, 2] = Field(
        2, description="While training on a GPU: 2 drops vLLM's weights, 1 keeps a copy in host memory."
    )

    @model_validator(mode="after")
    def _sleeps(self) -> Self:
        if self.share_weights:
            refuse_without_effect(
                self, ["sleep_level"], "with share_weights, because vLLM then does not sleep"
            )
        return self


EngineConfig = Annotated[HfEngineConfig | VllmEngineConfig, Field(discriminator="kind")]


class GenerationConfig(Section):
    """Generation by itself."""

    engine: EngineConfig = Field(HfEngineConfig(), description="What generates: hf or vllm.")
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="Sampling for training; in an eval recipe, how problems are answered."
    )


class RolloutConfig(GenerationConfig):
    """Generation for training."""

    responses_per_prompt: int = Field(16, ge=1, description="Size of a group.")
    sync_tolerance: float | None = Field(
        None,
        gt=0,
        description="Largest mean gap of the fixed text's logprobs, in nats. If unset: 1e-3 in float32; in bfloat16 4 "
        "times the gap of the run's first sync, and at least 0.02.",
    )
    sync_check: Literal["logprobs", "tensors", "none"] = Field(
        "logprobs",
        description="How it is checked after every weight sync that generation has the trained weights. logprobs: both "
        "engines score a fixed text, which does not reach embeddings of other tokens, or experts that it is not sent "
        "to. tensors: every tensor is compared to the bit, at the cost of another sync.",
    )

    @model_validator(mode="after")
    def _tolerance_is_used(self) -> Self:
        if self.sync_check != "logprobs":
            refuse_without_effect(self, ["sync_tolerance"], f"with sync_check {self.sync_check!r}")
        return self
