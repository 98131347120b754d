"""Sections of recipes that train on examples which exist already."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner_rl.config.base import Section


class SftAlgorithmConfig(Section):
    """Supervised fine-tuning: the mean negative log-likelihood per token."""

    kind: Literal["sft"] = Field("sft", description="Chooses this algorithm.")


class SftBatchConfig(Section):
    """Sizes of a training step, which is one optimizer update."""

    examples_per_step: int = Field(64, ge=1, description="Examples in one optimizer update.")
    epochs: Literal[1] = Field(1, description="Passes over a step's batch.")
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most tokens in one forward and backward pass; memory, not results, depends on it.",
    )
