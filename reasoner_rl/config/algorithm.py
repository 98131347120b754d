"""The algorithms. Each is one set of defaults over the same few choices; any choice can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


class KlConfig(Section):
    """Keeping the policy near the frozen reference policy."""

    coefficient: float = Field(0.0, ge=0, description="Weight of the KL term; 0 keeps no reference model.")
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3",
        description="k1 log-ratio, k2 half its square, k3 low-variance "
        "(http://joschu.net/blog/kl-approx.html).",
    )
    place: Literal["loss", "reward"] = Field(
        "loss", description="Add the term to the loss, or subtract it from the reward."
    )

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.coefficient > 0 and self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "algorithm.loss.kl.estimator 'k1' has an expected gradient of zero as a loss; use k2 or k3, "
                "or algorithm.loss.kl.place 'reward'"
            )
        return self


class ImportanceSamplingConfig(Section):
    """Correction for the gap between the rollout engine's and the trainer's probabilities."""

    kind: Literal["none", "truncated", "masked"] = Field(
        "none",
        description="Multiply each token's loss by its weight, trainer / rollout probability, without gradient. "
        "truncated: by min(weight, cap) (https://fengyao.notion.site/off-policy-rl). masked: by 0 where the weight is "
        "outside floor to cap (IcePop, arXiv 2510.18855).",
    )
    cap: float = Field(2.0, ge=1, description="Largest weight.")
    floor: float = Field(0.5, ge=0, le=1, description="Smallest weight that masked keeps.")


class LossConfig(Section):
    """The clipped policy-gradient objective."""

    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + clip_high.")
    dual_clip: float | None = Field(
        10.0,
        gt=1,
        description="Bound on ratio times -advantage for negative advantages (arXiv 1912.09729); null: off.",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token",
        description="token: one ratio a token. sequence: their geometric mean over the response (GSPO, "
        "arXiv 2507.18071).",
    )
    aggregation: Aggregation = Field(
        "token-mean",
        description="token-mean: every token counts the same (DAPO). seq-mean-token-mean: every response "
        "counts the same (GRPO). seq-mean-token-sum-norm: sum divided by the constant maximal length (Dr. "
        "GRPO).",
    )
    entropy_coefficient: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    kl: KlConfig = Field(KlConfig(), description="KL term against the reference policy.")
    importance_sampling: ImportanceSamplingConfig = Field(
        ImportanceSamplingConfig(), description="Correction for train/rollout mismatch."
    )
    old_logprobs: Literal["auto", "recompute", "rollout"] = Field(
        "auto",
        description="Where the ratio's denominator comes from. recompute: one more forward pass by the "
        "trainer. rollout: the logprobs of generation. auto: none needed (ratio exactly 1) when a batch is "
        "one update, else recompute.",
    )

    @model_validator(mode="after")
    def _weights_are_not_all_one(self) -> Self:
        if self.old_logprobs == "rollout" and self.importance_sampling.kind != "none":
            raise ValueError(
                "algorithm.loss.importance_sampling weighs by trainer / rollout probability, and with "
                "algorithm.loss.old_logprobs 'rollout' the two are the same: use old_logprobs 'recompute', or "
                "importance_sampling.kind 'none'"
            )
        return self


class ValueLossConfig(Section):
    """The regression of a critic on the returns (PPO, arXiv 1707.06347)."""

    clip: float | None = Field(
        0.5,
        gt=0,
        description="A value's loss is at least that of the value kept within this of the old one; null: not clipped.",
    )


class DynamicSamplingConfig(Section):
    """DAPO's filter: a group whose responses are all right or all wrong teaches nothing."""

    enabled: bool = Field(
        True,
        description="Drop groups with accuracy all 0 or all 1 and generate until the batch is full. Where a reward "
        "function tells no accuracy, groups whose scores are all the same are dropped.",
    )
    max_generation_batches: int = Field(
        10, ge=1, description="Give up filling the batch after this many times batch.prompts_per_generation."
    )
    when_exhausted: Literal["train", "fail"] = Field(
        "train",
        description="At the cap: train on the groups at hand and skip a step that has none, or stop with the counts.",
    )
    max_staleness: int = Field(
        1,
        ge=0,
        description="Surplus groups are kept for the next steps unless older than this many policy "
        "versions; 0: none are.",
    )


class _GroupPolicyGradient(Section):
    """What all group-relative algorithms choose between."""

    advantage: Literal["group_std", "group_mean", "leave_one_out"] = Field(
        "group_std",
        description="group_std: (reward - group mean) / group standard deviation. group_mean: without the "
        "division (Dr. GRPO, arXiv 2503.20783). leave_one_out: reward - mean of the others (RLOO, arXiv "
        "2402.14740).",
    )
    loss: LossConfig = Field(LossConfig(), description="The objective.")
    dynamic_sampling: DynamicSamplingConfig = Field(
        DynamicSamplingConfig(enabled=False), description="Filtering of groups that teach nothing."
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_the_presets(cls, given: Any) -> Any:
        """Let `loss: {clip_low: 0.1}` change one key of the algorithm's own preset and keep the others."""
        if not isinstance(given, Mapping):
            return given
        merged = dict(given)
        for name in ("loss", "dynamic_sampling"):
            if isinstance(merged.get(name), Mapping):
                merged[name] = _overlay(cls.model_fields[name].default.model_dump(), merged[name])
        return merged


def _overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


class DapoConfig(_GroupPolicyGradient):
    """DAPO (arXiv 2503.14476): clip-higher, dynamic sampling, token-level loss, overlong shaping, no KL."""

    kind: Literal["dapo"] = Field("dapo", description="Chooses this algorithm.")
    loss: LossConfig = Field(LossConfig(clip_low=0.2, clip_high=0.28), description="The objective.")
    dynamic_sampling: DynamicSamplingConfig = Field(
        DynamicSamplingConfig(), description="Filtering of groups that teach nothing."
    )


class GrpoConfig(_GroupPolicyGradient):
    """GRPO (arXiv 2402.03300): group-relative advantage, per-response mean, KL to the reference."""

    kind: Literal["grpo"] = Field("grpo", description="Chooses this algorithm.")
    loss: LossConfig = Field(
        LossConfig(aggregation="seq-mean-token-mean", dual_clip=None, kl=KlConfig(coefficient=0.001)),
        description="The objective.",
    )


class DrGrpoConfig(_GroupPolicyGradient):
    """Dr. GRPO (arXiv 2503.20783): no division by the standard deviation, constant length normalisation."""

    kind: Literal["dr_grpo"] = Field("dr_grpo", description="Chooses this algorithm.")
    advantage: Literal["group_std", "group_mean", "leave_one_out"] = Field(
        "group_mean", description="See algorithm grpo."
    )
    loss: LossConfig = Field(
        LossConfig(aggregation="seq-mean-token-sum-norm", dual_clip=None), description="The objective."
    )


class RlooConfig(_GroupPolicyGradient):
    """RLOO (arXiv 2402.14740): leave-one-out baseline."""

    kind: Literal["rloo"] = Field("rloo", description="Chooses this algorithm.")
    advantage: Literal["group_std", "group_mean", "leave_one_out"] = Field(
        "leave_one_out", description="See algorithm grpo."
    )


class GspoConfig(_GroupPolicyGradient):
    """GSPO (arXiv 2507.18071): one ratio a response, clipped very tightly."""

    kind: Literal["gspo"] = Field("gspo", description="Chooses this algorithm.")
    loss: LossConfig = Field(
        LossConfig(
            ratio="sequence", clip_low=3e-4, clip_high=4e-4, dual_clip=None, aggregation="seq-mean-token-mean"
        ),
        description="The objective.",
    )


AlgorithmConfig = Annotated[
    DapoConfig | GrpoConfig | DrGrpoConfig | RlooConfig | GspoConfig, Field(discriminator="kind")
]


class BatchConfig(Section):
    """Sizes of a training step. The unit is prompts; each brings rollout.responses_per_prompt responses."""

    prompts_per_step: int = Field(512, ge=1, description="Prompts (groups) trained on in one step.")
    prompts_per_update: int = Field(
        32, ge=1, description="Prompts in a mini-batch, that is in one optimizer update."
    )
    prompts_per_generation: int | None = Field(
        None,
        ge=1,
        description="Prompts in flight at a time. Above prompts_per_step (DAPO: three times) it is how many groups "
        "are generated and kept while the batch is filled; prompts_per_step if unset.",
    )
    epochs: int = Field(1, ge=1, description="Passes over a step's batch.")
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most tokens in one forward and backward pass; memory, not results, depends on it.",
    )

    @model_validator(mode="after")
    def _updates_are_whole(self) -> Self:
        if self.prompts_per_step % self.prompts_per_update:
            raise ValueError(
                f"batch.prompts_per_update must divide batch.prompts_per_step: {self.prompts_per_update} "
                f"does not divide {self.prompts_per_step}"
            )
        return self
