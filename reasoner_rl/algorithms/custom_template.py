"""An algorithm of your own: copy this file, change it, and name the copy in the recipe.

A whole algorithm, here GRPO with the group's median as the baseline instead of its mean:

    algorithm: {kind: custom, fn: my_algorithm.py:build, parameters: {quantile: 0.5}}

Only the advantage, or only the loss, of an algorithm that there is:

    algorithm: {kind: grpo, advantage: my_algorithm.py:advantages}
    algorithm: {kind: dapo, loss: {fn: my_algorithm.py:loss}}

docs/how_to/own_algorithm.md explains what samples and batches hold. When a run starts, the functions are tried out on a
made-up batch, also for whether the loss depends on how a batch is cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.custom import policy_loss_of
from reasoner_rl.algorithms.logprobs import with_old_logprobs
from reasoner_rl.config.algorithm import CustomConfig, LossConfig
from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import MicroBatch, TokenOutputs, TrainSample, constant_column


class QuantileBaseline(Algorithm):
    """Advantage: the reward less a quantile of the rewards to the same prompt."""

    def __init__(self, config: CustomConfig, updates_per_step: int) -> None:
        self._quantile = float(config.parameters.get("quantile", 0.5))
        self._updates_per_step = updates_per_step
        # `config.loss` is the recipe's algorithm.loss: clipping, aggregation and so on stay the recipe's choice.
        self.losses = {"policy": policy_loss_of(config.loss)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach old logprobs and advantages."""
        samples = with_old_logprobs(samples, models.policy, "auto", ratio_is_one=self._updates_per_step == 1)
        found = advantages(samples, self._quantile)
        prepared = [
            sample.replace(advantages=constant_column(advantage, len(sample.response_ids)))
            for sample, advantage in zip(samples, found, strict=True)
        ]
        return Prepared(prepared, {"advantage/above_baseline": mean(sum(a > 0 for a in found), len(found))})


def build(config: CustomConfig, updates_per_step: int) -> Algorithm:
    """Called once in the driver and once in every worker."""
    return QuantileBaseline(config, updates_per_step)


def advantages(samples: Sequence[TrainSample], quantile: float = 0.5) -> list[float]:
    """Return one number per sample, for all its tokens; a tensor [R] per sample would be one number per token."""
    rewards: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        rewards[sample.group].append(sample.reward)
    baselines = {group: float(torch.tensor(own).quantile(quantile)) for group, own in rewards.items()}
    return [sample.reward - baselines[sample.group] for sample in samples]


def loss(outputs: TokenOutputs, batch: MicroBatch, config: LossConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the loss, a scalar, and metrics.

    This one is REINFORCE: -A logprob. `aggregate` divides by the whole mini-batch's counts, so that the result does not
    depend on how it was cut into micro-batches and ranks.
    """
    share = aggregate(-batch.advantages * outputs.logprobs, batch, config.aggregation)
    return share, {
        "policy/loss": mean(share.item(), float(batch.loss_mask.sum()) / max(batch.denominators.tokens, 1.0))
    }
