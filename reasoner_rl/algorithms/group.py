"""Group-relative policy gradients: GRPO, DAPO, Dr. GRPO, RLOO and GSPO.

Each prompt x is answered G times, y_1 .. y_G, with scores r_1 .. r_G. A response is judged against its group,

    A_i = (r_i - mean(r)) / std(r)          GRPO (arXiv 2402.03300), DAPO (2503.14476), GSPO (2507.18071)
    A_i = r_i - mean(r)                     Dr. GRPO (2503.20783)
    A_i = r_i - mean of the others          RLOO (2402.14740)

and every token t of it minimises the clipped objective, with ratio_t = policy(y_t) / old policy(y_t),

    -min(ratio_t A_i, clip(ratio_t, 1 - low, 1 + high) A_i)  [ + beta KL(policy || reference) ]

averaged over tokens (DAPO), over responses (GRPO, GSPO) or over a constant length (Dr. GRPO): see losses/policy.py.
What sets DAPO apart besides is done where responses are collected: its filter of groups, and the penalty for length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from reasoner_rl.advantages.group import advantages_in_groups
from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.logprobs import with_old_logprobs, with_reference_logprobs
from reasoner_rl.config.algorithm import GroupAlgorithmConfig
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.types import TrainSample


class GroupPolicyGradient(Algorithm):
    """The family; its members are sets of defaults in config/algorithm.py.

    updates_per_step: optimizer updates in a step. If there is one, every ratio is exactly 1.
    """

    def __init__(self, config: GroupAlgorithmConfig, updates_per_step: int) -> None:
        self._config, self._updates_per_step = config, updates_per_step
        self._kl_in_reward = config.loss.kl.coefficient > 0 and config.loss.kl.place == "reward"
        if config.loss.kl.coefficient > 0:
            self.roles = ("policy", "reference")
        self.losses = {"policy": partial(policy_loss, config=config.loss)}
        self.entropy_gradient = config.loss.entropy_coefficient > 0

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach old and reference logprobs and advantages."""
        loss = self._config.loss
        if loss.kl.coefficient > 0:  # first: the policy then keeps its turn on the device until it is updated
            samples = with_reference_logprobs(samples, models)
        samples = with_old_logprobs(
            samples,
            models.policy,
            loss.old_logprobs,
            ratio_is_one=self._updates_per_step == 1 and not self._kl_in_reward,
        )
        scores = [self._score(sample) for sample in samples]
        advantages = advantages_in_groups(scores, [s.group for s in samples], self._config.advantage)
        return Prepared(
            [
                sample.replace(advantages=torch.full((len(sample.response_ids),), advantage))
                for sample, advantage in zip(samples, advantages, strict=True)
            ],
            {},
        )

    def _score(self, sample: TrainSample) -> float:
        """The reward, less the KL to the reference summed over the tokens where that is in the reward."""
        if not self._kl_in_reward:
            return sample.reward
        if sample.old_logprobs is None or sample.reference_logprobs is None:
            raise ValueError("KL in the reward needs the policy's and the reference's logprobs")
        kl = self._config.loss.kl
        per_token = kl_estimate(sample.old_logprobs, sample.reference_logprobs, kl.estimator)
        return sample.reward - kl.coefficient * float(per_token.sum())
