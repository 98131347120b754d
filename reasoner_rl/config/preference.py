"""Algorithms that learn from answers which were judged before: pairs, labels and scores."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, UserPath, UserPathOrName, refuse_without_effect

# What an algorithm learns from: a better and a worse answer to the same prompt; single answers that are good or bad;
# single answers with a number.
JudgedData = Literal["pairs", "labels", "scores"]


class DpoConfig(Section):
    """Direct preference optimisation (arXiv 2305.18290) and its relatives."""

    data: ClassVar[JudgedData] = "pairs"

    kind: Literal["dpo"] = Field("dpo", description="Chooses this algorithm.")
    objective: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid",
        description="With d the log-ratio of the chosen answer less that of the rejected one. sigmoid: -log "
        "sigmoid(beta d). ipo: (d - 1 / (2 beta))^2 (arXiv 2310.12036). hinge: max(0, 1 - beta d) (SLiC, arXiv "
        "2305.10425).",
    )
    beta: float = Field(
        0.1, gt=0, description="How dear it is to leave the reference; the smaller, the cheaper."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of pairs that are taken to be labelled the wrong way round (conservative DPO); for sigmoid.",
    )
    length_normalized: bool | None = Field(
        None,
        description="Divide each log-ratio by the answer's tokens. If unset: for ipo, whose authors do, and not else.",
    )
    nll_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the negative log-likelihood per token of the chosen answer (arXiv 2404.19733).",
    )
    kl_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean k3 estimate, per token of both answers, of the KL divergence from the "
        "reference (some texts call this form KTO).",
    )
    reference: Literal["live", "precomputed"] = Field(
        "live",
        description="live: the reference is a second model, evaluated in every step. precomputed: its logprobs of all "
        "data are computed once, before the first step, and kept in files; no second model is loaded.",
    )
    reference_cache: UserPath | None = Field(
        None,
        description="Folder of precomputed logprobs, which runs with the same model and data can share; "
        "reference_logprobs in run.output_dir if unset.",
    )

    @property
    def normalized(self) -> bool:
        """Whether log-ratios are per token."""
        return self.objective == "ipo" if self.length_normalized is None else self.length_normalized

    @model_validator(mode="after")
    def _cache_is_used(self) -> Self:
        if self.reference == "live":
            refuse_without_effect(self, ["reference_cache"], "with reference 'live'")
        return self

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Self:
        if self.objective != "sigmoid":
            refuse_without_effect(self, ["label_smoothing"], f"with objective {self.objective!r}")
        return self


class KtoConfig(Section):
    """Kahneman-Tversky optimisation (arXiv 2402.01306), of single answers that are good or bad."""

    data: ClassVar[JudgedData] = "labels"

    kind: Literal["kto"] = Field("kto", description="Chooses this algorithm.")
    beta: float = Field(0.1, gt=0, description="How dear it is to leave the reference.")
    desirable_weight: float = Field(1.0, gt=0, description="lambda_D, the weight of good answers.")
    undesirable_weight: float = Field(1.0, gt=0, description="lambda_U, the weight of bad answers.")


class OrpoConfig(Section):
    """Odds-ratio preference optimisation (arXiv 2403.07691), which needs no reference."""

    data: ClassVar[JudgedData] = "pairs"

    kind: Literal["orpo"] = Field("orpo", description="Chooses this algorithm.")
    odds_ratio_weight: float = Field(
        0.1, gt=0, description="lambda, the weight of the odds-ratio term beside the likelihood."
    )


class SimpoConfig(Section):
    """Simple preference optimisation (arXiv 2405.14734), which needs no reference."""

    data: ClassVar[JudgedData] = "pairs"

    kind: Literal["simpo"] = Field("simpo", description="Chooses this algorithm.")
    beta: float = Field(2.0, gt=0, description="Scale of the mean logprobs per token.")
    gamma: float = Field(1.0, ge=0, description="Margin by which the chosen answer must lead, after scaling.")
    nll_coefficient: float = Field(
        0.0, ge=0, description="Weight of the negative log-likelihood per token of the chosen answer."
    )


class ScoreWeightedSftConfig(Section):
    """Supervised fine-tuning in which each answer's likelihood is weighted by its score."""

    data: ClassVar[JudgedData] = "scores"

    kind: Literal["score_weighted_sft"] = Field("score_weighted_sft", description="Chooses this algorithm.")
    score_weight: float = Field(1.0, gt=0, description="lambda, how much an answer's score counts.")
    likelihood_weight: float = Field(
        1.0, ge=0, description="What every answer counts besides: 0 leaves the scores alone."
    )
    center: bool = Field(
        True,
        description="Subtract the mean score of the step's answers, so that those below it become less likely.",
    )


PreferenceAlgorithmConfig = Annotated[
    DpoConfig | KtoConfig | OrpoConfig | SimpoConfig | ScoreWeightedSftConfig, Field(discriminator="kind")
]


class ReferenceConfig(Section):
    """A frozen model that the policy is compared with. What is not said here is as for the policy: see model."""

    path: UserPathOrName = Field(
        description="Folder of a checkpoint, or a name on the hub, with the policy's tokenizer."
    )


class PreferenceBatchConfig(Section):
    """Sizes of a training step, which is one optimizer update."""

    examples_per_step: int = Field(
        64, ge=1, description="Pairs, or single answers, in one optimizer update: what a row of the data is."
    )
    epochs: Literal[1] = Field(1, description="Passes over a step's batch.")
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most tokens in one forward and backward pass; memory, not results, depends on it. A pair stays "
        "together.",
    )
