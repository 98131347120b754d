"""Estimates of KL(policy || reference) from the logprobs of sampled tokens, and the coefficient of a penalty on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from reasoner_rl.config.ppo import KlControlConfig

_LOG_RATIO_LIMIT = 20.0
_K3_LIMIT = 10.0
_LARGEST_KL_ERROR = 0.2


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, kind: Literal["k1", "k2", "k3"]) -> Tensor:
    """Return one estimate per token [N], in nats, for tokens sampled from the policy.

    With d = logprobs - reference_logprobs (http://joschu.net/blog/kl-approx.html):

    k1 = d: unbiased, high variance, negative at times. Only for the reward: as a loss its gradient is zero on
    average, so it holds the policy nowhere.

    k2 = d^2 / 2: biased in value; its gradient is that of KL(policy || reference).

    k3 = exp(-d) - 1 + d: unbiased, low variance, never negative; its gradient is that of
    KL(reference || policy), which agrees with the other to first order near the reference. GRPO's choice
    (arXiv 2402.03300).

    k3 keeps d within 20 of 0 and is at most 10, as in verl, so that one token cannot overflow the loss.
    """
    difference = logprobs - reference_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    difference = difference.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return ((-difference).exp() - 1 + difference).clamp(max=_K3_LIMIT)


@dataclass(frozen=True)
class KlController:
    """The coefficient of a KL penalty, fixed or held near a target (arXiv 1909.08593, section 2.2)."""

    coefficient: float
    target: float | None = None  # nats per token; None: fixed
    horizon: int = 10000  # responses

    def updated(self, kl: float, responses: int) -> KlController:
        """Return the controller after a step with mean ``kl``, in nats per token, over that many responses.

        coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon), as verl's AdaptiveKLController.
        """
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -_LARGEST_KL_ERROR), _LARGEST_KL_ERROR)
        return replace(self, coefficient=self.coefficient * (1 + error * responses / self.horizon))

    def with_coefficient(self, coefficient: float) -> KlController:
        """Return the controller with another coefficient, such as that of a checkpoint."""
        return replace(self, coefficient=coefficient)


def kl_controller(config: KlControlConfig) -> KlController:
    """Return the controller that a run starts with."""
    target = config.target if config.controller == "adaptive" else None
    return KlController(config.coefficient, target, config.horizon)
