"""What algorithms that learn from fresh responses by a policy gradient do alike; each says how it makes advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasoner_rl.algorithms.base import Algorithm, Examples, Models, Prepared
from reasoner_rl.algorithms.custom import policy_loss_of
from reasoner_rl.algorithms.kl_in_reward import KlInReward
from reasoner_rl.algorithms.logprobs import with_old_logprobs, with_reference_logprobs
from reasoner_rl.algorithms.ptx import Ptx
from reasoner_rl.algorithms.reference_refresh import ReferenceRefresh
from reasoner_rl.algorithms.token_mask import TokenMask
from reasoner_rl.config.algorithm import PolicyGradientConfig
from reasoner_rl.metrics import Metrics
from reasoner_rl.types import TrainSample


class PolicyGradient(Algorithm):
    """Needs a reference where KL is in the reward or in the loss.

    updates_per_step: optimizer updates in a step. If there is one, every ratio is exactly 1.
    examples: for PPO-ptx, in the driver.
    """

    def __init__(
        self, config: PolicyGradientConfig, updates_per_step: int, examples: Examples | None = None
    ) -> None:
        self._old_logprobs, self._updates_per_step = config.loss.old_logprobs, updates_per_step
        self._decoupled = config.loss.stale_old_logprobs == "trainer"
        self._kl = KlInReward(config.kl_in_reward)
        self._refresh = ReferenceRefresh(config.reference_refresh_steps)
        self.refreshes_reference = config.reference_refresh_steps is not None
        self._token_mask = TokenMask(config.token_mask)
        self._ptx = Ptx(config.ptx, examples)
        if self._kl.used or config.loss.kl.coefficient > 0:
            self.roles = ("policy", "reference")
        self.losses = {"policy": self._ptx.mixed(policy_loss_of(config.loss))}
        self.entropy_gradient = config.loss.entropy_coefficient > 0

    def _with_logprobs(
        self, samples: Sequence[TrainSample], models: Models, *, all_old: bool = False
    ) -> list[TrainSample]:
        """Attach reference and old logprobs, where they are needed.

        all_old: the algorithm reads old logprobs itself, also where every ratio is 1.
        """
        # The reference comes first: the policy then keeps its turn on the device.
        if "reference" in self.roles:
            samples = with_reference_logprobs(samples, models)
        ratio_is_one = self._updates_per_step == 1 and not self._kl.used and not all_old
        return with_old_logprobs(
            samples,
            models.policy,
            self._old_logprobs,
            ratio_is_one=ratio_is_one,
            decoupled=self._decoupled,
        )

    def _masked(self, samples: Sequence[TrainSample], models: Models, metrics: Metrics) -> Prepared:
        """Samples with advantages, of which only the chosen tokens are trained, and what to log."""
        masked, masking = self._token_mask.apply(samples, models.policy)
        return Prepared(masked, metrics | masking)

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """See `Algorithm.update`."""
        return models.policy.update(samples, self._ptx.next_examples) | self._refresh.after_update(models)

    def state(self) -> dict[str, Any]:
        """See `Algorithm.state`."""
        return self._kl.state() | self._refresh.state() | self._ptx.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Algorithm.restore`."""
        self._kl.restore(state)
        self._refresh.restore(state)
        self._ptx.restore(state)
