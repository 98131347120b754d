"""Kahneman-Tversky optimisation (KTO, arXiv 2402.01306), of single answers that are good or bad.

With r(x, y) = log(policy(y | x) / reference(y | x)) and

    z0 = max(0, mean over the batch of r(x, y'))        y' is the answer to another prompt of the batch

minimise  lambda_D * (1 - sigmoid(beta * (r(x, y) - z0)))    for a good answer
          lambda_U * (1 - sigmoid(beta * (z0 - r(x, y))))    for a bad one

averaged over answers. z0 estimates the KL divergence of the policy from the reference; no gradient goes through it, and
it is one number for the whole batch, on however many ranks. The loss is in losses/kto.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

import torch

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.logprobs import with_reference_logprobs
from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.errors import DataError
from reasoner_rl.losses.kto import kto_loss
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import TrainSample, constant_column


class Kto(Algorithm):
    """Needs a reference, also for the answers to other prompts, which are others in every batch."""

    roles = ("policy", "reference")

    def __init__(self, config: KtoConfig) -> None:
        self.losses = {"policy": partial(kto_loss, config=config)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach the reference's logprobs and z0."""
        crossed = mismatched(samples)
        judged = with_reference_logprobs([*samples, *crossed], models)
        samples, crossed = judged[: len(samples)], judged[len(samples) :]
        reference = [sample.reference_logprobs for sample in crossed]
        ratios = [
            float((logprobs - compared).sum())
            for logprobs, compared in zip(models.policy.logprobs(crossed), reference, strict=True)
            if compared is not None
        ]
        estimate = max(0.0, fmean(ratios))
        with_estimate = [
            sample.replace(kl_baseline=constant_column(estimate, len(sample.response_ids)))
            for sample in samples
        ]
        return Prepared(with_estimate, {"preference/kl": mean(estimate)})

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """Train the policy. The margin is by how much good answers lead on average, in a step that has both kinds."""
        metrics = models.policy.update(samples)
        good, bad = metrics["rewards/chosen"], metrics["rewards/rejected"]
        if good.count and bad.count:
            metrics = {**metrics, "rewards/margins": mean(good.value() - bad.value())}
        return metrics


def mismatched(samples: Sequence[TrainSample]) -> list[TrainSample]:
    """Each sample's prompt with the answer of the next sample that has another prompt, as a ring.

    Raises DataError if all prompts are the same.
    """
    crossed = []
    for place, sample in enumerate(samples):
        others = (samples[(place + distance) % len(samples)] for distance in range(1, len(samples)))
        other = next((each for each in others if not torch.equal(each.prompt_ids, sample.prompt_ids)), None)
        if other is None:
            raise DataError(
                f"KTO compares with answers to other prompts, and all {len(samples)} answers of this step are to the "
                "same one: raise batch.examples_per_step"
            )
        crossed.append(other.replace(prompt_ids=sample.prompt_ids, group=sample.group))
    return crossed
