"""The numbers that follow from a recipe. Computed here and nowhere else, and printed when a run starts."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.config.recipes import OnlineConfig


@dataclass(frozen=True, slots=True)
class StepArithmetic:
    """Sizes of one training step, and of the run. An update is one step of the optimizer."""

    prompts_per_step: int
    responses_per_prompt: int
    responses_per_step: int
    prompts_per_update: int
    responses_per_update: int
    epochs: int
    updates_per_step: int  # over all epochs
    prompts_per_generation: int  # of which dynamic sampling allows some times as many
    prompts_in_flight: int  # at a time, at most
    responses_in_flight: int
    max_generated_responses_per_step: int  # at the cap of dynamic sampling
    max_prompt_tokens: int
    max_response_tokens: int
    max_sequence_tokens: int  # prompt and response
    max_tokens_per_step: int  # prompts and responses trained on
    micro_batch_tokens: int
    total_steps: int
    total_updates: int  # of the policy
    warmup_updates: int

    def rows(self) -> list[tuple[str, str]]:
        """Return (what, number) for the table at start-up."""
        return [
            ("prompts per step", _n(self.prompts_per_step)),
            ("responses per step", _product(self.prompts_per_step, self.responses_per_prompt)),
            ("prompts generated at a time", _n(self.prompts_in_flight)),
            ("responses generated at a time", _product(self.prompts_in_flight, self.responses_per_prompt)),
            ("responses generated, at most", _n(self.max_generated_responses_per_step)),
            ("responses per update", _product(self.prompts_per_update, self.responses_per_prompt)),
            ("updates per step", self._updates()),
            ("longest prompt", f"{_n(self.max_prompt_tokens)} tokens"),
            ("longest response", f"{_n(self.max_response_tokens)} tokens"),
            ("longest sequence", f"{_n(self.max_sequence_tokens)} tokens"),
            ("tokens per step, at most", _n(self.max_tokens_per_step)),
            ("micro-batch", self._micro_batch()),
            ("steps", _n(self.total_steps)),
            ("updates in all", f"{_n(self.total_updates)} ({_n(self.warmup_updates)} of them warm-up)"),
        ]

    def _updates(self) -> str:
        once = self.updates_per_step // self.epochs
        return _n(once) if self.epochs == 1 else _product(once, self.epochs)

    def _micro_batch(self) -> str:
        text = f"{_n(self.micro_batch_tokens)} tokens"
        fits = self.max_sequence_tokens <= self.micro_batch_tokens
        return text if fits else f"{text}; a longer sequence stands alone"


def step_arithmetic(config: OnlineConfig) -> StepArithmetic:
    """Return the numbers that follow from a recipe."""
    batch, sampling = config.batch, config.rollout.sampling
    responses = config.rollout.responses_per_prompt
    generation = batch.prompts_per_generation or batch.prompts_per_step
    filtered = config.algorithm.dynamic_sampling
    whole_batches = -(-batch.prompts_per_step // generation)
    most_batches = filtered.max_generation_batches if filtered.enabled else whole_batches
    updates = batch.epochs * (batch.prompts_per_step // batch.prompts_per_update)
    sequence = config.data.prompts.max_tokens + sampling.max_response_tokens
    return StepArithmetic(
        prompts_per_step=batch.prompts_per_step,
        responses_per_prompt=responses,
        responses_per_step=batch.prompts_per_step * responses,
        prompts_per_update=batch.prompts_per_update,
        responses_per_update=batch.prompts_per_update * responses,
        epochs=batch.epochs,
        updates_per_step=updates,
        prompts_per_generation=generation,
        prompts_in_flight=batch.prompts_in_flight,
        responses_in_flight=batch.prompts_in_flight * responses,
        max_generated_responses_per_step=most_batches * generation * responses,
        max_prompt_tokens=config.data.prompts.max_tokens,
        max_response_tokens=sampling.max_response_tokens,
        max_sequence_tokens=sequence,
        max_tokens_per_step=batch.prompts_per_step * responses * sequence,
        micro_batch_tokens=batch.micro_batch_tokens,
        total_steps=config.run.steps,
        total_updates=config.policy_steps * updates,
        warmup_updates=config.training.schedule.warmup_steps * updates,
    )


def arithmetic_lines(config: OnlineConfig) -> list[str]:
    """The table at start-up, a line per number."""
    return [f"  {name:<32} {number}" for name, number in step_arithmetic(config).rows()]


def _n(number: int) -> str:
    return f"{number:,}"


def _product(left: int, right: int) -> str:
    return f"{_n(left * right)} ({_n(left)} x {_n(right)})"
