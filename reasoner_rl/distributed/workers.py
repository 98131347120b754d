"""All workers of a run: what generates, the models, and what concerns both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from reasoner_rl.algorithms.base import Algorithm, Models
from reasoner_rl.batching.plan import BatchLimits
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.building import roles_of
from reasoner_rl.distributed.models import (
    CriticGroup,
    PolicyGroup,
    ReferenceGroup,
    RewardModelGroup,
    TeacherGroup,
    UpdatePlan,
)
from reasoner_rl.distributed.pool import GenerationPool
from reasoner_rl.distributed.transport import Phase, Transport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.hybrid.layers import PartGap
from reasoner_rl.metrics import Metrics, merge

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


def _nothing() -> None:
    pass


class Workers:
    """The workers of a training run, as the trainer sees them: independent of their number and of where they run.

    pool: None in a run that generates nothing.
    """

    def __init__(self, config: TrainConfig, algorithm: Algorithm, transport: Transport) -> None:
        self._transport = transport
        self.pool: GenerationPool | None = None
        if not isinstance(config, RewardModelConfig) and config.generates:
            self.pool = GenerationPool(config.rollout.engine, transport)
        # Where others generate, models can be called while responses are in flight.
        self.generation_goes_on = set(transport.generators).isdisjoint(range(transport.ranks))
        idle = _nothing if self.pool is None or self.generation_goes_on else self.pool.require_idle
        parts = (transport, config.training.backend, update_plan(config, algorithm), idle)
        roles = roles_of(config, algorithm)
        self.reward_model = RewardModelGroup(*parts) if "reward_model" in roles else None
        self.models = Models(
            policy=PolicyGroup(*parts),
            reference=ReferenceGroup(*parts) if "reference" in roles else None,
            critic=CriticGroup(*parts) if "critic" in roles else None,
            teacher=TeacherGroup(*parts) if "teacher" in roles else None,
            reward_model=self.reward_model,
        )

    def publish(self, version: int, before: Callable[[], object] = _nothing) -> Metrics:
        """Give the policy's weights to generation. Returns what the phase changes since the last call cost.

        before: called before generation gets them. Where others generate, each of their replicas loads the weights when
        it has nothing in flight, and what that costs is returned by the next call.
        """
        if self.pool is None:
            return {}
        if self.generation_goes_on:
            weights, sent = self._transport.send_weights(version)
            before()
            self.pool.renew(weights)
            return merge([sent, self.pool.loaded()])
        before()
        self.pool.require_idle()
        return merge(self._call("sync", Worker.publish, version))

    def while_waiting(self, advance: Callable[[], object]) -> None:
        """Have ``advance`` called whenever those that generate have news while a model is waited for."""
        if self.generation_goes_on:
            self._transport.meanwhile = advance

    def policy_hash(self) -> str:
        """What tells whether the policy's weights have changed by a bit; weights must be published afterwards."""
        return self._call("sync", Worker.policy_hash)[0]

    def part_gaps(self, token_ids: Sequence[int]) -> list[PartGap]:
        """Where rollout engine and trainer part on these tokens; weights must be published afterwards."""
        return self._call("train", Worker.part_gaps, token_ids)[0]

    def save(self, folder: Path) -> None:
        """Write the state of the trained models into an existing folder."""
        self._call("checkpoint", Worker.save, folder)

    def load(self, folder: Path) -> list[str]:
        """Restore what `save` wrote; weights must be published afterwards. Returns what to tell of it."""
        return self._call("checkpoint", Worker.load, folder)[0]

    def export(self, folder: Path) -> None:
        """Write the policy and its tokenizer as a Hugging Face checkpoint."""
        self._call("checkpoint", Worker.export, folder)

    def _call(
        self, phase: Phase, method: Callable[[Worker, *Arguments], R], *arguments: *Arguments
    ) -> list[R]:
        return self._transport.call(phase, method, [arguments] * self._transport.ranks)


def update_plan(config: TrainConfig, algorithm: Algorithm) -> UpdatePlan:
    """How the recipe cuts a batch into updates."""
    if isinstance(config, OnlineConfig):
        longest = config.rollout.sampling.max_response_tokens
        per_update = step_arithmetic(config).responses_per_update
    else:
        longest = config.data.max_response_tokens
        answers = 2 if algorithm.together else 1  # per example
        per_update = answers * config.batch.examples_per_step
    limits = BatchLimits(config.batch.micro_batch_tokens, longest, algorithm.together)
    return UpdatePlan(per_update, config.batch.epochs, limits)
