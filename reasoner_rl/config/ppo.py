"""What PPO (arXiv 1707.06347) chooses beside the policy's and the critic's losses: advantages, and KL in the reward."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Off, Section, refuse_without_effect
from reasoner_rl.config.data import SftDataConfig


class GaeConfig(Section):
    """Generalised advantage estimation (arXiv 1506.02438) from a critic's values."""

    gamma: float = Field(1.0, ge=0, le=1, description="Discount from one token to the next.")
    lam: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Lambda of the policy's advantages: 1 sums rewards to the end, 0 trusts the critic's next value.",
    )
    critic_lam: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Lambda of the returns that the critic learns (decoupled, VAPO, arXiv 2504.05118, with 1.0); null: "
        "lam.",
    )
    length_adaptive_alpha: float | None = Field(
        None,
        gt=0,
        description="Takes 1 - 1 / (alpha * response tokens), at least 0, in place of lam (VAPO, arXiv 2504.05118, "
        "with 0.05); null: off.",
    )
    bootstrap_truncated: bool = Field(
        False,
        description="What follows a response that was cut off at the token limit. true: as much as the critic expected "
        "before its last token. false: nothing, as if the response had ended.",
    )
    whiten: bool = Field(
        True,
        description="Shift and scale advantages to mean 0, deviation 1 over the whole batch's trained tokens.",
    )

    @model_validator(mode="after")
    def _lambdas_are_told_apart(self) -> Self:
        if self.length_adaptive_alpha is not None and self.critic_lam is None:
            raise ValueError(
                "gae.length_adaptive_alpha changes the policy's lambda from response to response, so the critic needs "
                "one of its own: set gae.critic_lam (VAPO: 1.0)"
            )
        if self.length_adaptive_alpha is not None:
            refuse_without_effect(self, ["lam"], "with length_adaptive_alpha, which takes its place")
        return self


class KlControlConfig(Section):
    """The price, in the reward of each token, of leaving the frozen reference policy."""

    off: ClassVar[Off] = {"coefficient": 0.0}

    coefficient: float = Field(
        0.0, ge=0, description="Weight of the penalty, at first if adaptive; 0 keeps no reference model."
    )
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k1",
        description="k1 log-ratio, k2 half its square, k3 low-variance (http://joschu.net/blog/kl-approx.html).",
    )
    controller: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="adaptive: after each step the coefficient is multiplied by 1 + clip(kl / target - 1, -0.2, 0.2) * "
        "responses / horizon (arXiv 1909.08593).",
    )
    target: float = Field(0.1, gt=0, description="adaptive: the KL to hold, in nats per token.")
    horizon: int = Field(
        10000, ge=1, description="adaptive: responses in which the coefficient can change by a fifth or so."
    )

    @model_validator(mode="after")
    def _controller_fits(self) -> Self:
        if self.controller == "adaptive" and self.coefficient == 0:
            raise ValueError(
                "controller 'adaptive' multiplies the coefficient, and 0 stays 0: set coefficient above 0, or "
                "controller 'fixed'"
            )
        if self.controller == "fixed":
            refuse_without_effect(self, ["target", "horizon"], "with controller 'fixed'")
        return self


class PtxConfig(Section):
    """PPO-ptx (InstructGPT, arXiv 2203.02155): a language-modelling loss on examples, added to that of the policy."""

    coefficient: float = Field(
        gt=0,
        description="Weight of the mean negative log-likelihood per token of the update's examples (gamma in equation "
        "2; InstructGPT: 27.8).",
    )
    data: SftDataConfig = Field(description="Examples, as of an SFT recipe; their responses are trained.")
    examples_per_update: int = Field(
        ge=1, description="Examples in each optimizer update of the policy; every update has the next ones."
    )
