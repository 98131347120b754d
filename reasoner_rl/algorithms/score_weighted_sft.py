"""Supervised fine-tuning weighted by scores: likelihood plus lambda times score, on answers that were scored before.

With s_i the score of answer y_i to x_i, less the mean score of the step's answers if ``center`` is on,

minimise  -sum_i (likelihood_weight + lambda * s_i) * sum_t log policy(y_i,t | x_i, y_i,<t) / number of tokens

Some texts call this form ORPO; ORPO as published (arXiv 2403.07691) is in orpo.py. It is the policy gradient of
reinforcement learning taken on answers that the policy did not sample, without a correction for that, beside plain
supervised fine-tuning. An answer whose weight is negative becomes less likely, without bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.config.preference import ScoreWeightedSftConfig
from reasoner_rl.losses.supervised import weighted_supervised_loss
from reasoner_rl.metrics import mean, mean_of
from reasoner_rl.types import TrainSample, constant_column


class ScoreWeightedSft(Algorithm):
    """Needs the policy alone."""

    def __init__(self, config: ScoreWeightedSftConfig) -> None:
        self._config = config
        self.losses = {"policy": weighted_supervised_loss}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach each answer's weight, as its advantage."""
        del models
        config, scores = self._config, [sample.reward for sample in samples]
        middle = fmean(scores) if config.center else 0.0
        weights = [config.likelihood_weight + config.score_weight * (score - middle) for score in scores]
        weighted = [
            sample.replace(advantages=constant_column(weight, len(sample.response_ids)))
            for sample, weight in zip(samples, weights, strict=True)
        ]
        negative = mean(sum(weight < 0 for weight in weights), len(weights))
        metrics = {"preference/score": mean_of(scores), "preference/negative_weights": negative}
        return Prepared(weighted, metrics)
