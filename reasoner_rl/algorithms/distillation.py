"""On-policy distillation: the policy learns a teacher's distribution on the tokens that it samples itself.

GKD (arXiv 2306.13649) with the policy's own samples and the reverse KL divergence KL(policy || teacher), whose gradient
is that of a policy gradient with an advantage per token,

    A_t = teacher_weight * (log teacher(y_t) - log old policy(y_t))  [ + reward_weight * A(reward) ]

(https://thinkingmachines.ai/blog/on-policy-distillation/), where A(reward) is the advantage of the response within its
group as in algorithms/group.py. The clipped objective is that of policy gradients. The future's share of the
divergence is left out (discount 0): each token is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Examples, Models, Prepared
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.config.algorithm import DistillationConfig
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import TrainSample, constant_column


class Distillation(GroupPolicyGradient):
    """Needs a teacher, and what a policy gradient needs."""

    def __init__(
        self, config: DistillationConfig, updates_per_step: int, examples: Examples | None = None
    ) -> None:
        super().__init__(config, updates_per_step, examples)
        self._teacher_weight, self._reward_weight = config.teacher_weight, config.reward_weight
        self.roles = (*self.roles, "teacher")

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach old and reference logprobs and advantages."""
        if models.teacher is None:
            raise ValueError("distillation needs a teacher, and this run has none")
        # The teacher comes first: the policy then keeps its turn on the device.
        taught = models.teacher.logprobs(samples)
        samples = self._with_logprobs(samples, models, all_old=True)
        leads = [_lead(sample, by_teacher) for sample, by_teacher in zip(samples, taught, strict=True)]
        rewarded = [constant_column(0.0, len(sample.response_ids)) for sample in samples]
        metrics = Metrics()
        if self._reward_weight > 0:
            rewarded, metrics = self._advantages_by_reward(samples)
        judged = [
            sample.replace(advantages=self._teacher_weight * lead + self._reward_weight * by_reward)
            for sample, lead, by_reward in zip(samples, leads, rewarded, strict=True)
        ]
        trained = torch.cat([lead[sample.loss_mask] for lead, sample in zip(leads, samples, strict=True)])
        kl = mean(-float(trained.sum()), len(trained))  # nats per token
        return self._masked(judged, models, metrics | {"teacher/kl": kl})


def _lead(sample: TrainSample, by_teacher: Tensor) -> Tensor:
    """By how much the teacher prefers each token [R], in nats; less than 0 where the policy is too sure of it."""
    if sample.old_logprobs is None:
        raise ValueError("distillation needs the policy's own logprobs")
    return by_teacher - sample.old_logprobs
