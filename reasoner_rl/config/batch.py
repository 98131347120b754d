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
        None,
        ge=1,
        description="Prompts that make a long round; batch.prompts_per_generation if unset, since with dynamic "
        "sampling many of their groups are dropped.",
    )

    @model_validator(mode="after")
    def _rounds_are_made(self) -> Self:
        if self.until != "long_round":
            refuse_without_effect(self, ["long_round_prompts"], f"with until {self.until!r}")
        return self


class AheadConfig(Section):
    """Generation that goes ahead of training, so that it does not stand still while a step's last responses are drawn.

    Prompts of later steps are begun before the present step's batch is full. Every prompt is trained on at most
    ``steps`` policy versions after it was begun, because no more prompts are begun than those steps need; nothing is
    thrown away for its age.
    """

    steps: int = Field(
        1,
        ge=0,
        description="How many steps the generation of a prompt may begin before its own. 0: synchronous; 1: one step "
        "off policy; more: bounded staleness (arXiv 2505.24298).",
    )
    order: Literal["begun", "finished"] = Field(
        "begun",
        description="Which groups make a batch. begun: the next in the order in which prompts were begun, which is "
        "waited for, so that a batch depends on neither timing nor the lengths of responses. finished: those that are "
        "finished, which keeps workers busy; batches of the first steps have more short answers than later ones, and "
        "a prompt whose responses are long is trained on up to `steps` later, never left out.",
    )
    in_flight: Literal["continue", "finish"] = Field(
        "continue",
        description="Responses in flight when the weights change. continue: interrupted, kept with tokens and "
        "logprobs, and continued under the new weights. finish: finished under the old ones, which needs "
        "cluster.generation.",
    )


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
        "are generated and kept while the batch is filled; prompts_per_step if unset. With batch.ahead it is only how "
        "many are in flight, and if unset prompts_per_step x (1 + batch.ahead.steps).",
    )
    put_off: PutOffConfig | None = Field(
        None, description="Put long responses off instead of waiting for them; they are waited for if unset."
    )
    ahead: AheadConfig | None = Field(
        None,
        description="Begin prompts of later steps early; generation and training are synchronous if unset.",
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

    @property
    def steps_ahead(self) -> int:
        """How many steps the generation of a prompt may begin before its own."""
        return 0 if self.ahead is None else self.ahead.steps

    @property
    def prompts_in_flight(self) -> int:
        """Most prompts whose responses are drawn at a time."""
        return self.prompts_per_generation or self.prompts_per_step * (1 + self.steps_ahead)

    @model_validator(mode="after")
    def _ahead_or_put_off(self) -> Self:
        if self.put_off is not None and self.steps_ahead:
            raise ValueError(
                "batch.put_off must be unset with batch.ahead.steps above 0: a response that is put off would be "
                "trained on later than batch.ahead.steps allows"
            )
        return self

    @model_validator(mode="after")
    def _updates_are_whole(self) -> Self:
        if self.prompts_per_step % self.prompts_per_update:
            raise ValueError(
                f"batch.prompts_per_update must divide batch.prompts_per_step: {self.prompts_per_update} "
                f"does not divide {self.prompts_per_step}"
            )
        return self
