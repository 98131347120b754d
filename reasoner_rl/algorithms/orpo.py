"""Odds-ratio preference optimisation (ORPO, arXiv 2403.07691): supervised fine-tuning and preference in one loss.

Each prompt x has a chosen answer c and a rejected one r. With p(y) = policy(y | x)^(1 / |y|), odds(p) = p / (1 - p),

minimise  -log p(c) - lambda * log sigmoid(log odds(p(c)) - log odds(p(r)))

averaged over pairs. There is no reference. The loss is in losses/pairs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.config.preference import OrpoConfig
from reasoner_rl.losses.pairs import orpo_loss
from reasoner_rl.types import TrainSample


class Orpo(Algorithm):
    """Needs the policy alone."""

    together = True

    def __init__(self, config: OrpoConfig) -> None:
        self.losses = {"policy": partial(orpo_loss, config=config)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Return the pairs as they are."""
        del models
        return Prepared(list(samples), {})
