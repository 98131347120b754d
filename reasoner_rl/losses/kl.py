"""Estimates of KL(policy || reference) from the logprobs of sampled tokens."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

_LOG_RATIO_LIMIT = 20.0
_K3_LIMIT = 10.0


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, kind: Literal["k1", "k2", "k3"]) -> Tensor:
    """Return one estimate a token [N], in nats, for tokens sampled from the policy.

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
