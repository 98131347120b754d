"""Tokens and floating-point operations of a step.

A forward pass takes 2 operations per token and parameter in a matrix product and, for attention, 4 per token, layer,
width of all query heads and token that is looked at; the gradients take twice as much again (Kaplan et al., arXiv
2001.08361, section 2.1: 6 N D in all; attention as in PaLM, arXiv 2204.02311, appendix B, with the causal half).
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.architecture import Architecture
from reasoner_rl.plan.memory import is_asked
from reasoner_rl.plan.setup import Setup

# Shares of their limits that mean lengths are assumed to have, where the user says nothing.
RESPONSE_SHARE, PROMPT_SHARE = 1 / 3, 1 / 8
# Responses that dynamic sampling is assumed to generate, at the least, for each that is trained on.
FILTERED_SURPLUS = 2.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean numbers of tokens, of which a plan can only assume something."""

    prompt: float
    response: float

    @property
    def sequence(self) -> float:
        """Prompt and response."""
        return self.prompt + self.response


@dataclass(frozen=True, slots=True)
class Pass:
    """Operations of one model in one part of a step, of all ranks together."""

    name: str
    tokens: float
    flops: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one step does, of all ranks together."""

    trained_sequences: int
    trained_tokens: float  # prompts and responses
    generated_sequences: float
    generated_tokens: float  # of responses
    prompt_tokens: float  # that generation reads, each prompt once
    prefill_flops: float
    decode_flops: float
    passes: tuple[Pass, ...]  # of training: logprobs and values, then updates

    @property
    def flops(self) -> float:
        """All of it."""
        return self.prefill_flops + self.decode_flops + sum(each.flops for each in self.passes)


def assumed_lengths(setup: Setup, prompt: float | None = None, response: float | None = None) -> Lengths:
    """Mean lengths: what the user says, or shares of the limits."""
    return Lengths(
        max(1.0, PROMPT_SHARE * setup.longest_prompt) if prompt is None else prompt,
        max(1.0, RESPONSE_SHARE * setup.longest_response) if response is None else response,
    )


def forward_flops(architecture: Architecture, context: float) -> float:
    """Operations of a forward pass per token that looks at ``context`` tokens on average."""
    return 2 * architecture.multiplied_parameters + attention_flops(architecture, context)


def attention_flops(architecture: Architecture, context: float) -> float:
    """Those of the attention operator alone."""
    return 4 * architecture.layers * architecture.query_width * context


def recomputed_flops(setup: Setup, architecture: Architecture, context: float) -> float:
    """Operations per token that gradient checkpointing makes again.

    Where attention is kept, FSDP2 makes all else again, and Megatron the three products of the feed-forward.
    """
    checkpointing = setup.config.model.gradient_checkpointing
    if checkpointing is False:
        return 0.0
    if checkpointing is True:
        return forward_flops(architecture, context)
    if setup.megatron is None:
        return 2.0 * architecture.multiplied_parameters
    return 2.0 * 3 * architecture.layers * architecture.hidden * architecture.feed_forward


def plan_work(setup: Setup, lengths: Lengths) -> Work:
    """Work of one step with sequences of these mean lengths."""
    sequences, generated, prompts = _sequences(setup)
    tokens = sequences * lengths.sequence
    epochs = setup.config.batch.epochs
    passes = []
    for model in setup.models:
        forward = tokens * forward_flops(model.architecture, lengths.sequence / 2)
        if is_asked(setup, model):
            passes.append(Pass(f"logprobs or values, {model.role}", tokens, forward))
        if model.trained:
            # Frozen weights have no gradient of their own.
            share = model.trained / model.parameters
            again = tokens * recomputed_flops(setup, model.architecture, lengths.sequence / 2)
            flops = epochs * ((2 + share) * forward + again)
            passes.append(Pass(f"update, {model.role}", epochs * tokens, flops))
    policy = setup.policy.architecture
    read, drawn = prompts * lengths.prompt, generated * lengths.response
    return Work(
        trained_sequences=sequences,
        trained_tokens=tokens,
        generated_sequences=generated,
        generated_tokens=drawn,
        prompt_tokens=read,
        prefill_flops=read * forward_flops(policy, lengths.prompt / 2),
        decode_flops=drawn * forward_flops(policy, lengths.prompt + lengths.response / 2),
        passes=tuple(passes),
    )


def _sequences(setup: Setup) -> tuple[int, float, float]:
    """Sequences trained on, responses generated, prompts read in a step."""
    config = setup.config
    if not isinstance(config, OnlineConfig):
        return setup.sequences_per_update, 0.0, 0.0
    arithmetic = step_arithmetic(config)
    factor = 1.0
    if config.algorithm.dynamic_sampling.enabled:
        factor = max(FILTERED_SURPLUS, arithmetic.prompts_per_generation / arithmetic.prompts_per_step)
    return (
        arithmetic.responses_per_step,
        factor * arithmetic.responses_per_step,
        factor * arithmetic.prompts_per_step,
    )
