"""Direct preference optimisation (DPO, arXiv 2305.18290), and with other objectives IPO (2310.12036) and SLiC's hinge.

Each prompt x has a chosen answer c and a rejected one r. With

    d = log(policy(c | x) / reference(c | x)) - log(policy(r | x) / reference(r | x))

minimise  -log sigmoid(beta d)           DPO; with label smoothing e, (1 - e) of that and e of -log sigmoid(-beta d)
          (d - 1 / (2 beta))^2           IPO, with log-ratios per token
          max(0, 1 - beta d)             hinge

averaged over pairs, [ + weight * negative log-likelihood of c ] [ + weight * KL(policy || reference) ].
The losses are in losses/pairs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.logprobs import with_reference_logprobs
from reasoner_rl.config.preference import DpoConfig
from reasoner_rl.losses.pairs import dpo_loss
from reasoner_rl.types import TrainSample


class Dpo(Algorithm):
    """Needs a reference, unless its logprobs were computed before."""

    together = True

    def __init__(self, config: DpoConfig) -> None:
        self.losses = {"policy": partial(dpo_loss, config=config)}
        self.roles = ("policy", "reference") if config.reference == "live" else ("policy",)

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach the reference's logprobs."""
        if "reference" not in self.roles:
            return Prepared(list(samples), {})
        return Prepared(with_reference_logprobs(samples, models), {})
