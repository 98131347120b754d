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

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reasoner_rl.advantages.group import advantages_in_groups
from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.custom import advantages_of, policy_loss_of
from reasoner_rl.algorithms.kl_in_reward import KlInReward
from reasoner_rl.algorithms.logprobs import with_old_logprobs, with_reference_logprobs
from reasoner_rl.algorithms.reference_refresh import ReferenceRefresh
from reasoner_rl.algorithms.token_mask import TokenMask
from reasoner_rl.config.algorithm import GROUP_ADVANTAGES, GroupAlgorithmConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.types import TrainSample, constant_column


class GroupPolicyGradient(Algorithm):
    """The family; its members are sets of defaults in config/algorithm.py.

    updates_per_step: optimizer updates in a step. If there is one, every ratio is exactly 1.
    """

    def __init__(self, config: GroupAlgorithmConfig, updates_per_step: int) -> None:
        self._config, self._updates_per_step = config, updates_per_step
        self._kl = KlInReward(config.kl_in_reward)
        self._refresh = ReferenceRefresh(config.reference_refresh_steps)
        self.refreshes_reference = config.reference_refresh_steps is not None
        self._own_advantages = (
            None if config.advantage in GROUP_ADVANTAGES else advantages_of(config.advantage)
        )
        self._token_mask = TokenMask(config.token_mask)
        if self._kl.used or config.loss.kl.coefficient > 0:
            self.roles = ("policy", "reference")
        self.losses = {"policy": policy_loss_of(config.loss)}
        self.entropy_gradient = config.loss.entropy_coefficient > 0

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach old and reference logprobs and advantages."""
        # The reference comes first: the policy then keeps its turn on the device until it is updated.
        if "reference" in self.roles:
            samples = with_reference_logprobs(samples, models)
        samples = with_old_logprobs(
            samples,
            models.policy,
            self._config.loss.old_logprobs,
            ratio_is_one=self._updates_per_step == 1 and not self._kl.used,
        )
        priced, metrics = list(samples), Metrics()
        if self._kl.used:
            penalties, metrics = self._kl.penalties(samples)
            priced = [
                sample.replace(reward=sample.reward - float(penalty.sum()))
                for sample, penalty in zip(samples, penalties, strict=True)
            ]
        advantages = self._advantages(priced)
        judged = [s.replace(advantages=a) for s, a in zip(samples, advantages, strict=True)]
        masked, masking = self._token_mask.apply(judged, models.policy)
        return Prepared(masked, metrics | masking)

    def _advantages(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """The advantages [R] of each sample, by its reward."""
        if self._own_advantages is not None:
            return self._own_advantages(samples)
        rewards, groups = [s.reward for s in samples], [s.group for s in samples]
        found = advantages_in_groups(rewards, groups, self._config.advantage)
        return [constant_column(each, len(s.response_ids)) for s, each in zip(samples, found, strict=True)]

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
