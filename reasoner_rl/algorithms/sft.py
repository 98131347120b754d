"""Supervised fine-tuning: the negative log-likelihood of worked examples.

minimise  -sum_t log policy(y_t | x, y_<t) / number of trained tokens of the mini-batch
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.losses.supervised import supervised_loss
from reasoner_rl.types import TrainSample


class SupervisedFineTuning(Algorithm):
    """Needs the policy alone, and nothing but the examples."""

    def __init__(self) -> None:
        self.losses = {"policy": supervised_loss}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Return the examples as they are."""
        del models
        return Prepared(list(samples), {})
