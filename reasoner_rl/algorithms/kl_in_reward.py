"""KL to the reference as a price in the reward, and the coefficient that goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reasoner_rl.advantages.rewards import mean_kl
from reasoner_rl.config.ppo import KlControlConfig
from reasoner_rl.losses.kl import kl_controller, kl_estimate
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import TrainSample


class KlInReward:
    """Penalties per token, and a coefficient that may adapt from step to step."""

    def __init__(self, config: KlControlConfig) -> None:
        self._estimator = config.estimator
        self._controller = kl_controller(config)
        self.used = config.coefficient > 0

    def penalties(
        self, samples: Sequence[TrainSample], *, adapts: bool = True
    ) -> tuple[list[Tensor], Metrics]:
        """Return coefficient * KL estimate [R] of each sample, with what to log, and adapt the coefficient.

        adapts: False in a step in which the policy is not trained, so that no coefficient could move its KL.
        Raises ValueError if the samples lack the policy's or the reference's logprobs.
        """
        estimates = [self._estimate(sample) for sample in samples]
        kl = mean_kl(estimates, [sample.loss_mask for sample in samples])
        coefficient = self._controller.coefficient
        if adapts:
            self._controller = self._controller.updated(kl, len(samples))
        measured: Metrics = {"reward/kl": mean(kl), "reward/kl_coefficient": mean(coefficient)}
        return [coefficient * estimate for estimate in estimates], measured

    def _estimate(self, sample: TrainSample) -> Tensor:
        if sample.old_logprobs is None or sample.reference_logprobs is None:
            raise ValueError("KL in the reward needs the policy's and the reference's logprobs")
        return kl_estimate(sample.old_logprobs, sample.reference_logprobs, self._estimator)

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint."""
        return {"kl_coefficient": self._controller.coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved coefficient if it adapts and one was saved; a fixed one is the recipe's."""
        if self._controller.target is not None and "kl_coefficient" in state:
            self._controller = self._controller.with_coefficient(state["kl_coefficient"])
