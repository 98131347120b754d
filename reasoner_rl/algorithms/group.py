"""Group-relative policy gradients: GRPO, DAPO, Dr. GRPO, RLOO, GSPO and CISPO.

Each prompt x is answered G times, y_1 .. y_G, with scores r_1 .. r_G. A response is judged against its group,

    A_i = (r_i - mean(r)) / std(r)          GRPO (arXiv 2402.03300), DAPO (2503.14476), GSPO (2507.18071)
    A_i = r_i - mean(r)                     Dr. GRPO (2503.20783)
    A_i = r_i - mean of the others          RLOO (2402.14740)

and every token t of it minimises the clipped objective, with ratio_t = policy(y_t) / old policy(y_t),

    -min(ratio_t A_i, clip(ratio_t, 1 - low, 1 + high) A_i)  [ + beta KL(policy || reference) ]

averaged over tokens (DAPO), over responses (GRPO, GSPO) or over a constant length (Dr. GRPO); CISPO (2506.13585) takes
the clipped ratio as a weight instead: see losses/surrogates.py. KL may be in the reward instead of the loss.
What sets DAPO apart besides is done where responses are collected: its filter of groups, and the penalty for length.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reasoner_rl.advantages.group import advantages_in_groups
from reasoner_rl.algorithms.base import Examples, Models, Prepared
from reasoner_rl.algorithms.custom import advantages_of
from reasoner_rl.algorithms.policy_gradient import PolicyGradient
from reasoner_rl.config.algorithm import GROUP_ADVANTAGES, DistillationConfig, GroupAlgorithmConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.types import TrainSample, constant_column


class GroupPolicyGradient(PolicyGradient):
    """The family; its members are sets of defaults in config/algorithm.py."""

    def __init__(
        self,
        config: GroupAlgorithmConfig | DistillationConfig,
        updates_per_step: int,
        examples: Examples | None = None,
    ) -> None:
        super().__init__(config, updates_per_step, examples)
        self._config = config
        self._own_advantages = (
            None if config.advantage in GROUP_ADVANTAGES else advantages_of(config.advantage)
        )

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach old and reference logprobs and advantages."""
        samples = self._with_logprobs(samples, models)
        advantages, metrics = self._advantages_by_reward(samples)
        judged = [
            s.replace(advantages=a if s.weight == 1 else a * s.weight)
            for s, a in zip(samples, advantages, strict=True)
        ]
        return self._masked(judged, models, metrics)

    def _advantages_by_reward(self, samples: Sequence[TrainSample]) -> tuple[list[Tensor], Metrics]:
        """The advantages [R] of each sample by its reward, from which the price of the KL is taken."""
        priced, metrics = list(samples), Metrics()
        if self._kl.used:
            penalties, metrics = self._kl.penalties(samples)
            priced = [
                sample.replace(reward=sample.reward - float(penalty.sum()))
                for sample, penalty in zip(samples, penalties, strict=True)
            ]
        return self._advantages(priced), metrics

    def _advantages(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """The advantages [R] of each sample, by its reward."""
        if self._own_advantages is not None:
            return self._own_advantages(samples)
        rewards, groups = [s.reward for s in samples], [s.group for s in samples]
        found = advantages_in_groups(rewards, groups, self._config.advantage)
        return [constant_column(each, len(s.response_ids)) for s, each in zip(samples, found, strict=True)]
