"""PPO with a critic (arXiv 1707.06347), as used on language models (arXiv 1909.08593, 2203.02155).

Every token is an action. Its reward is -beta KL(policy || reference) at that token, and the response's score besides at
the last one. A critic V predicts the return of the state before each token, and with gamma and lambda

    delta_t = r_t + gamma V_{t+1} - V_t,     A_t = sum_l (gamma lambda)^l delta_{t+l}        (GAE, arXiv 1506.02438)

the policy minimises the clipped objective with A whitened over the batch, and the critic the squared error to A + V.
With algorithm.ptx a language-modelling loss on examples is added (PPO-ptx, arXiv 2203.02155): see ptx.py.
Options of VAPO (arXiv 2504.05118): a lambda of its own for the critic, and a policy's lambda that grows with length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from reasoner_rl.advantages.gae import advantages_and_returns
from reasoner_rl.advantages.rewards import token_rewards
from reasoner_rl.advantages.statistics import column_metrics, critic_metrics
from reasoner_rl.algorithms.base import Examples, Models, Prepared
from reasoner_rl.algorithms.policy_gradient import PolicyGradient
from reasoner_rl.config.algorithm import PpoConfig
from reasoner_rl.losses.value import value_loss
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.types import TrainSample


class Ppo(PolicyGradient):
    """Needs a critic, and a reference as `PolicyGradient` does."""

    def __init__(self, config: PpoConfig, updates_per_step: int, examples: Examples | None = None) -> None:
        super().__init__(config, updates_per_step, examples)
        self._config = config
        self._steps = 0
        self.roles = (*self.roles, "critic")
        self.losses = {**self.losses, "critic": partial(value_loss, config=config.value_loss)}

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Attach logprobs, values, advantages and returns. The critic comes last: it is updated first."""
        samples = self._with_logprobs(samples, models)
        assert models.critic is not None
        values = models.critic.values(samples)
        rewards, kl_metrics = self._rewards(samples)
        masks = [sample.loss_mask for sample in samples]
        truncated = [sample.truncated for sample in samples]
        advantages, returns = advantages_and_returns(rewards, values, masks, truncated, self._config.gae)
        metrics = merge(
            [
                kl_metrics,
                critic_metrics(returns, values, masks),
                column_metrics("advantage/token", advantages, masks),
            ]
        )
        columns = zip(samples, advantages, returns, values, strict=True)
        judged = [s.replace(advantages=a, returns=r, old_values=v) for s, a, r, v in columns]
        return self._masked(judged, models, metrics)

    def _rewards(self, samples: Sequence[TrainSample]) -> tuple[list[Tensor], Metrics]:
        """The reward of every token."""
        if not self._kl.used:
            return [token_rewards(sample.reward, sample.loss_mask) for sample in samples], {}
        penalties, metrics = self._kl.penalties(samples, adapts=not self._critic_alone)
        priced = zip(samples, penalties, strict=True)
        return [
            token_rewards(sample.reward, sample.loss_mask, penalty) for sample, penalty in priced
        ], metrics

    @property
    def _critic_alone(self) -> bool:
        """Whether the step that is being made is one of the critic's warm-up."""
        return self._steps < self._config.critic_warmup_steps

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """Train the critic, and the policy too once the critic's warm-up is over."""
        assert models.critic is not None
        critic, critic_alone = models.critic.update(samples), self._critic_alone
        self._steps += 1
        if critic_alone:
            return critic
        return merge([critic, super().update(samples, models)])

    def state(self) -> dict[str, Any]:
        """See `Algorithm.state`."""
        return {"steps": self._steps, **super().state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Algorithm.restore`."""
        self._steps = state["steps"]
        super().restore(state)
