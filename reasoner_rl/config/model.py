"""Which model is trained, and in which numbers."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, UserPath, UserPathOrName

GradientCheckpointing: TypeAlias = bool | Literal["keep_attention"]


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) through peft; the base weights stay frozen."""

    rank: int = Field(16, ge=1, description="Rank of the adapter matrices.")
    alpha: int = Field(32, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapters' input while training.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the linear layers that get adapters, or 'all-linear'."
    )


class ModelConfig(Section):
    """The policy's checkpoint and how it is held while training."""

    path: UserPathOrName = Field(description="Folder of a Hugging Face checkpoint, or a name on the hub.")
    tokenizer: UserPathOrName | None = Field(
        None, description="Folder or hub name of the tokenizer; model.path if unset."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of forward and backward. Master weights stay float32."
    )
    attention: Literal["auto", "torch_varlen", "varlen_sdpa", "flash_attention_2"] = Field(
        "auto",
        description="Attention over packed sequences: torch_varlen (PyTorch's flash kernel; a GPU, 16 bits and PyTorch "
        "2.11), flash_attention_2 (that of flash-attn; a GPU and 16 bits), varlen_sdpa (anywhere), or auto: the first "
        "of them that can run on the device and with the model (its dropout of attention, its width of heads).",
    )
    gradient_checkpointing: GradientCheckpointing = Field(
        False,
        description="Recompute each layer's activations in backward: less memory, about a third more time. "
        "keep_attention: all but attention, whose output is kept: faster at long sequences, for the memory of one "
        "number per token, layer and column of all query heads.",
    )
    freeze_first_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the decoder layers, from the input, that is not trained (with the embeddings).",
    )
    lora: LoraConfig | None = Field(None, description="Train low-rank adapters instead of all weights.")
    chat_template: UserPath | None = Field(
        None, description="File with a Jinja chat template that replaces the tokenizer's own."
    )
    trust_remote_code: bool = Field(False, description="Allow code that comes with a checkpoint to run.")

    def frozen_beside(self, path: str) -> ModelConfig:
        """Another checkpoint that is not trained, with the tokenizer of this one."""
        changes = {
            "path": path,
            "tokenizer": self.tokenizer or self.path,
            "lora": None,
            "freeze_first_fraction": 0.0,
        }
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if self.lora is not None and self.freeze_first_fraction > 0:
            raise ValueError(
                "model.lora freezes every base weight already; set model.freeze_first_fraction to 0 "
                f"(it is {self.freeze_first_fraction})"
            )
        return self
