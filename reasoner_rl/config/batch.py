"""Sizes of a step of reinforcement learning, and what it does not wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect


class PutOffConfig(Section):
    """Responses that are not waited for: one that reaches its budget is kept with its tokens, and continued later.

    A step is filled with other prompts in their place. Groups stay in the order in which their prompts were begun, and
    every prompt that was put off is finished, so short answers are not favoured; they come earlier. The first
    2 x prompts_per_generation prompts of a step may be put off; further ones are answered to their ends.
    """

    budget_tokens: int = Field(
        ge=1, description="Most response tokens that are added to a response in a step, before it is put off."
    )
    until: Literal["next_step", "long_round"] = Field(
        "long_round",
        description="When a response is continued. next_step: for another budget (partial rollouts, arXiv 2509.18521). "
        "long_round: when there are long_round_prompts of them, to its end (tail batching, arXiv 2509.21009).",
    )
    long_round_prompts: int | None = Field(
        None, ge=1, description="Prompts that make a long round; batch.prompts_per_step if unset."
    )

    @model_validator(mode="after")
    def _rounds_are_made(self) -> Self:
        if self.until != "long_round":
            refuse_without_effect(self, ["long_round_prompts"], f"with until {self.until!r}")
        return self


class BatchConfig(Section):
    """Sizes of a training step. The unit is prompts; each brings rollout.responses_per_prompt responses."""

    prompts_per_step: int = Field(512, ge=1, description="Prompts (groups) trained on in one step.")
    prompts_per_update: int = Field(
        32,
        ge=1,
        description="Prompts in a mini-batch, that is in one optimizer update; if unset, all of the step where "
        "prompts_per_step is smaller.",
    )
    prompts_per_generation: int | None = Field(
        None,
        ge=1,
        description="Prompts in flight at a time. Above prompts_per_step (DAPO: three times) it is how many groups "
        "are generated and kept while the batch is filled; prompts_per_step if unset.",
    )
    put_off: PutOffConfig | None = Field(
        None, description="Put long responses off instead of waiting for them; they are waited for if unset."
    )
    longest_first: bool = Field(
        False,
        description="Start the prompts first whose earlier responses in this run were longest, so that few rows wait "
        "for the last response. Prompts, seeds and the order of acceptance stay the same; logprobs may differ by "
        "rounding, as responses are decoded beside others. Has an effect where prompts come again, and from then on.",
    )
    epochs: int = Field(1, ge=1, description="Passes over a step's batch.")
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most tokens in one forward and backward pass; memory, not results, depends on it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _update_follows_a_smaller_step(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "prompts_per_update" in given:
            return given
        step, default = given.get("prompts_per_step"), cls.model_fields["prompts_per_update"].default
        return (
            {**given, "prompts_per_update": step} if isinstance(step, int) and 0 < step < default else given
        )

    @model_validator(mode="after")
    def _updates_are_whole(self) -> Self:
        if self.prompts_per_step % self.prompts_per_update:
            raise ValueError(
                f"batch.prompts_per_update must divide batch.prompts_per_step: {self.prompts_per_update} "
                f"does not divide {self.prompts_per_step}"
            )
        return self
