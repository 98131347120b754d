"""REINFORCE++ (arXiv 2501.03262): no critic, and advantages whitened over the whole batch instead of within a group.

    return_t = sum of gamma^(u - t) r_u over tokens u >= t,     A = (return - mean) / deviation over the batch's tokens

where the reward of a token is -beta KL(policy || reference), and the response's score besides at the last one. The
baseline variant takes the group's mean off the score first, and gives every token of a response the same advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reasoner_rl.advantages.reinforce import reinforce_plus_plus, reinforce_plus_plus_baseline
from reasoner_rl.advantages.rewards import token_rewards
from reasoner_rl.advantages.statistics import column_metrics
from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.custom import policy_loss_of
from reasoner_rl.algorithms.kl_in_reward import KlInReward
from reasoner_rl.algorithms.logprobs import with_old_logprobs, with_reference_logprobs
from reasoner_rl.algorithms.reference_refresh import ReferenceRefresh
from reasoner_rl.algorithms.token_mask import TokenMask
from reasoner_rl.config.algorithm import ReinforceConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.types import TrainSample


class Reinforce(Algorithm):
    """Both variants.

    updates_per_step: optimizer updates in a step. If there is one, every ratio is exactly 1.
    """

    def __init__(self, config: ReinforceConfig, updates_per_step: int) -> None:
        self._config, self._updates_per_step = config, updates_per_step
        self._kl = KlInReward(config.kl_in_reward)
        self._refresh = ReferenceRefresh(config.reference_refresh_steps)
        self.refreshes_reference = config.reference_refresh_steps is not None
        self._token_mask = TokenMask(config.token_mask)
        if self._kl.used or config.loss.kl.coefficient > 0:
            self.roles = ("policy", "reference")
        self.losses = {"policy": policy_loss_of(config.loss)}
        self.entropy_gradient = config.loss.entropy_coefficient > 0

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach logprobs and advantages."""
        if "reference" in self.roles:
            samples = with_reference_logprobs(samples, models)
        ratio_is_one = self._updates_per_step == 1 and not self._kl.used
        samples = with_old_logprobs(
            samples, models.policy, self._config.loss.old_logprobs, ratio_is_one=ratio_is_one
        )
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
        masked, masking = self._token_mask.apply(judged, models.policy)
        return Prepared(masked, metrics | masking | column_metrics("advantage/token", advantages, masks))

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """See `Algorithm.update`."""
        return models.policy.update(samples) | self._refresh.after_update(models)

    def state(self) -> dict[str, Any]:
        """See `Algorithm.state`."""
        return self._kl.state() | self._refresh.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Algorithm.restore`."""
        self._kl.restore(state)
        self._refresh.restore(state)
