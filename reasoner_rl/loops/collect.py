"""Collecting a step's groups: prompts -> rollouts -> rewards, with DAPO's dynamic sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_rl.advantages.filters import split
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.distributed.group import Generator
from reasoner_rl.errors import NothingToLearn, UserError
from reasoner_rl.loops.generate import generate_groups
from reasoner_rl.metrics import Metrics, merge, total
from reasoner_rl.observability.measurements import PhaseTimer, rollout_metrics
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.types import Prompt, ScoredGroup


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups to train on, in prompt order, and what it took to find them."""

    groups: list[ScoredGroup]
    dropped: list[ScoredGroup]  # by the filter
    metrics: Metrics  # accuracy, reward and lengths are of all generated responses, kept or not
    generated_tokens: int


class GroupCollector:
    """Generates and scores groups until a step's batch is full.

    Groups are taken in prompt order, whatever time their responses took, so short answers are not favoured.
    Surplus groups open the next step's batch unless they have become too old.
    """

    def __init__(
        self,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        sampler: PromptSampler,
        generator: Generator,
        rewards: RewardRunner,
        timer: PhaseTimer,
    ) -> None:
        self._config = config
        self._prompts = prompts
        self.sampler = sampler
        self._generator = generator
        self._rewards = rewards
        self._timer = timer
        self.surplus: list[ScoredGroup] = []

    def collect(self, step: int, version: int) -> Collected:
        """Return a full batch for ``step``, or what the cap on generation batches allowed.

        Raises NothingToLearn if all groups are all right, and UserError, with the counts, if there is nothing else
        to train on, or too little and dynamic_sampling.when_exhausted is "fail".
        """
        config, dynamic = self._config, self._config.algorithm.dynamic_sampling
        fresh_enough = [g for g in self.surplus if version - g.policy_version <= dynamic.max_staleness]
        counts = {"stale": len(self.surplus) - len(fresh_enough), "reused": len(fresh_enough)}
        counts |= {"generated": 0, "dropped_right": 0, "dropped_wrong": 0, "generation_batches": 0}
        kept, generated, dropped = fresh_enough, list[ScoredGroup](), list[ScoredGroup]()
        wanted = config.batch.prompts_per_step
        cap = dynamic.max_generation_batches if dynamic.enabled else math.inf
        while len(kept) < wanted and counts["generation_batches"] < cap:
            groups = self._generate(step, counts["generation_batches"])
            counts["generation_batches"] += 1
            counts["generated"] += len(groups)
            generated += groups
            if dynamic.enabled:
                groups, right, wrong = split(groups)
                counts["dropped_right"] += len(right)
                counts["dropped_wrong"] += len(wrong)
                dropped += [*right, *wrong]
            kept = kept + groups
        if len(kept) < wanted:
            self._accept_shortage(step, len(kept), counts)
        kept, rest = kept[:wanted], kept[wanted:]
        self.surplus = rest if dynamic.max_staleness > 0 else []
        counts |= {
            "kept": len(kept),
            "surplus": len(self.surplus),
            "discarded": len(rest) - len(self.surplus),
        }
        metrics = merge(
            [
                {f"groups/{name}": total(count) for name, count in counts.items()},
                rollout_metrics(generated),
                reward_metrics(generated),
            ]
        )
        tokens = sum(len(rollout.token_ids) for group in generated for rollout in group.rollouts)
        return Collected(kept, dropped, metrics, tokens)

    def _generate(self, step: int, batch: int) -> list[ScoredGroup]:
        config = self._config
        indices = self.sampler.take(step_arithmetic(config).prompts_per_generation)
        return generate_groups(
            [self._prompts[index] for index in indices],
            self._generator,
            self._rewards,
            config.rollout.sampling,
            config.rollout.responses_per_prompt,
            seed_parts=(config.run.seed, "train", step, batch),
            timer=self._timer,
            progress=config.logging.progress,
        )

    def _accept_shortage(self, step: int, kept: int, counts: dict[str, int]) -> None:
        dynamic = self._config.algorithm.dynamic_sampling
        if kept and dynamic.when_exhausted == "train":
            return
        if dynamic.when_exhausted == "train" and counts["dropped_wrong"] == 0:
            raise NothingToLearn(
                f"step {step}: all {counts['generated']} groups generated were all right; nothing is left to learn"
            )
        raise UserError(
            f"step {step}: {counts['generation_batches']} generation batches "
            f"(algorithm.dynamic_sampling.max_generation_batches) gave {kept} of the "
            f"{self._config.batch.prompts_per_step} groups wanted: of {counts['generated']} generated, "
            f"{counts['dropped_right']} were all right and {counts['dropped_wrong']} all wrong. "
            "Use easier or harder problems, more responses a prompt, or a higher cap."
        )
