"""Reward models that learn from pairs: a score per answer, or a comparison of two answers.

pointwise   minimise -log sigmoid(s(c) - s(r) - margin) over pairs of a chosen answer c and a rejected one r, the
            Bradley-Terry model (arXiv 2203.02155) [ + center * (s(c) + s(r))^2, arXiv 2312.09244 ]
pairwise    minimise -log p(label of the better answer | prompt, answer A, answer B), with the answers in an order
            that is drawn anew for every pair of every step, so that positions say nothing (arXiv 2405.07863)

A pointwise model has a linear map to one score in place of its output embedding; a pairwise one is a language model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.batching.reading import read_at_end
from reasoner_rl.config.reward_model import PointwiseConfig
from reasoner_rl.losses.reward_model import bradley_terry_loss, label_loss
from reasoner_rl.metrics import Metrics
from reasoner_rl.seeding import derive_seed
from reasoner_rl.types import Role, TrainSample


class _RewardModel(Algorithm):
    roles: tuple[Role, ...] = ("reward_model",)
    product = "reward_model"

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """Train the reward model."""
        assert models.reward_model is not None
        return models.reward_model.update(samples)


class PointwiseReward(_RewardModel):
    """Reads every answer by itself.

    with_margins: the reward of a pair's chosen sample is the margin by which it is to lead.
    """

    together = True

    def __init__(self, config: PointwiseConfig, *, with_margins: bool) -> None:
        self._with_margins = with_margins
        self.losses = {"reward_model": partial(bradley_terry_loss, config=config)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Make samples of which the score is read."""
        del models
        read = [read_at_end(sample) for sample in samples]
        if not self._with_margins:
            read = [sample.replace(reward=0.0) for sample in read]
        return Prepared(read, {})


class PairwiseReward(_RewardModel):
    """Reads the two answers of a pair together, in one of two orders, of which an example holds both."""

    def __init__(self, seed: int) -> None:
        self._seed, self._steps = seed, 0
        self.losses = {"reward_model": label_loss}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Draw an order for every pair."""
        del models
        rng = random.Random(derive_seed(self._seed, "positions", self._steps))
        return Prepared([rng.choice(both) for both in zip(samples[::2], samples[1::2], strict=True)], {})

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """Train the reward model."""
        self._steps += 1
        return super().update(samples, models)

    def state(self) -> dict[str, Any]:
        """See `Algorithm.state`."""
        return {"steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Algorithm.restore`."""
        self._steps = state["steps"]
