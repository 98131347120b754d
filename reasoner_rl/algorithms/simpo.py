"""Simple preference optimisation (SimPO, arXiv 2405.14734): DPO without a reference, by logprobs per token.

Each prompt x has a chosen answer c and a rejected one r.

minimise  -log sigmoid(beta * log policy(c | x) / |c| - beta * log policy(r | x) / |r| - gamma)

averaged over pairs [ + weight * negative log-likelihood of c ]. The loss is in losses/pairs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.config.preference import SimpoConfig
from reasoner_rl.losses.pairs import simpo_loss
from reasoner_rl.types import TrainSample


class Simpo(Algorithm):
    """Needs the policy alone."""

    together = True

    def __init__(self, config: SimpoConfig) -> None:
        self.losses = {"policy": partial(simpo_loss, config=config)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Return the pairs as they are."""
        del models
        return Prepared(list(samples), {})
