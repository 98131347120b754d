"""REINFORCE++ (arXiv 2501.03262): no critic, and advantages whitened over the whole batch instead of within a group.

    return_t = sum of gamma^(u - t) r_u over tokens u >= t,     A = (return - mean) / deviation over the batch's tokens

where the reward of a token is -beta KL(policy || reference), and the response's score besides at the last one. The
baseline variant takes the group's mean off the score first, and gives every token of a response the same advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reasoner_rl.advantages.reinforce import reinforce_plus_plus, reinforce_plus_plus_baseline
from reasoner_rl.advantages.rewards import token_rewards
from reasoner_rl.advantages.statistics import column_metrics
from reasoner_rl.algorithms.base import Examples, Models, Prepared
from reasoner_rl.algorithms.policy_gradient import PolicyGradient
from reasoner_rl.config.algorithm import ReinforceConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.types import TrainSample


class Reinforce(PolicyGradient):
    """Both variants."""

    def __init__(
        self, config: ReinforceConfig, updates_per_step: int, examples: Examples | None = None
    ) -> None:
        super().__init__(config, updates_per_step, examples)
        self._config = config

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach logprobs and advantages."""
        samples = self._with_logprobs(samples, models)
        masks, metrics = [sample.loss_mask for sample in samples], Metrics()
        penalties: Sequence[Tensor | None] = [None] * len(samples)
        if self._kl.used:
            penalties, metrics = self._kl.penalties(samples)
        if self._config.baseline == "group":
            scores = [sample.reward for sample in samples]
            advantages = reinforce_plus_plus_baseline(scores, [sample.group for sample in samples], masks)
        else:
            rewards = [
                token_rewards(sample.reward, mask, penalty)
                for sample, mask, penalty in zip(samples, masks, penalties, strict=True)
            ]
            advantages, _ = reinforce_plus_plus(rewards, masks, self._config.gamma)
        judged = [s.replace(advantages=a) for s, a in zip(samples, advantages, strict=True)]
        metrics |= column_metrics("advantage/token", advantages, masks)
        return self._masked(judged, models, metrics)
