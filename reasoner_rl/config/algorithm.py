"""The algorithms. Each is one set of defaults over the same few choices; any choice can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from reasoner_rl.config.base import Off, Section, UserFunction, UserPathOrName, overlay, refuse_without_effect
from reasoner_rl.config.ppo import GaeConfig, KlControlConfig, PtxConfig
from reasoner_rl.errors import did_you_mean

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
ImportanceLevel = Literal["token", "sequence", "geometric"]
GROUP_ADVANTAGES = ("group_std", "group_mean", "leave_one_out")


def _is_known_or_a_function(advantage: str) -> str:
    if advantage not in GROUP_ADVANTAGES and ":" not in advantage:
        raise ValueError(
            f"must be one of {', '.join(GROUP_ADVANTAGES)}, or path/to/file.py:function; it is {advantage!r}."
            + did_you_mean(advantage, GROUP_ADVANTAGES)
        )
    return advantage


_ADVANTAGE = (
    "group_std: (reward - group mean) / group standard deviation. group_mean: without the division (Dr. GRPO, arXiv "
    "2503.20783). leave_one_out: reward - mean of the others (RLOO, arXiv 2402.14740). Or a function of your own, "
    "path/to/file.py:function, called as function(samples)."
)
GroupAdvantage = Annotated[UserPathOrName, AfterValidator(_is_known_or_a_function)]


class KlConfig(Section):
    """Keeping the policy near the frozen reference policy."""

    off: ClassVar[Off] = {"coefficient": 0.0}

    coefficient: float = Field(0.0, ge=0, description="Weight of the KL term; 0 keeps no reference model.")
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3",
        description="k1 log-ratio, k2 half its square, k3 low-variance "
        "(http://joschu.net/blog/kl-approx.html).",
    )

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.coefficient > 0 and self.estimator == "k1":
            raise ValueError(
                "algorithm.loss.kl.estimator 'k1' has an expected gradient of zero as a loss; use k2 or k3, "
                "or put the KL into the reward (algorithm.kl_in_reward)"
            )
        return self


class ImportanceSamplingConfig(Section):
    """Correction for the gap between the rollout engine's and the trainer's probabilities."""

    off: ClassVar[Off] = {"kind": "none"}

    kind: Literal["none", "truncated", "masked", "rejected"] = Field(
        "none",
        description="Multiply each token's loss by its weight, trainer / rollout probability, without gradient. "
        "truncated: by min(weight, cap) (https://fengyao.notion.site/off-policy-rl). masked: by 0 where the weight is "
        "outside floor to cap (IcePop, arXiv 2510.18855). rejected: by 0 outside floor to cap and by 1 inside.",
    )
    level: ImportanceLevel = Field(
        "token",
        description="Whose weight. token: the token's own. sequence: the product over the response's trained tokens, "
        "unbiased and of high variance. geometric: their geometric mean, with tight bounds a test of whole responses "
        "(https://richardli.xyz/rl-collapse).",
    )
    cap: float = Field(2.0, ge=1, description="Largest weight.")
    floor: float = Field(0.5, ge=0, le=1, description="Smallest weight that masked and rejected keep.")

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        unused = {"none": ("level", "cap", "floor"), "truncated": ("floor",)}.get(self.kind, ())
        refuse_without_effect(self, unused, f"with kind {self.kind!r}")
        return self


class LossConfig(Section):
    """The policy-gradient objective."""

    objective: Literal["clip", "cispo", "gmpo"] = Field(
        "clip",
        description="clip: the smaller of ratio * A and clipped ratio * A (PPO, arXiv 1707.06347). cispo: clipped "
        "ratio, as a weight without gradient, * A * logprob (arXiv 2506.13585; its aggregation is token-mean; needs "
        "dual_clip null). gmpo: A * geometric mean of the response's token ratios, each clipped on the side of A's "
        "sign (arXiv 2507.20673; needs aggregation seq-mean-token-mean, ratio token and dual_clip null).",
    )
    clip_low: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The ratio is clipped below at 1 - clip_low (1: not at all); with gmpo the log-ratio at -clip_low.",
    )
    clip_high: float = Field(
        0.2,
        ge=0,
        description="The ratio is clipped above at 1 + clip_high; with gmpo the log-ratio at clip_high (paper: 0.4).",
    )
    dual_clip: float | None = Field(
        10.0,
        gt=1,
        description="Bound on ratio times -advantage for negative advantages (arXiv 1912.09729); null: off.",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token",
        description="token: one ratio per token. sequence: their geometric mean over the response (GSPO, "
        "arXiv 2507.18071).",
    )
    aggregation: Aggregation = Field(
        "token-mean",
        description="token-mean: every token counts the same (DAPO). seq-mean-token-mean: every response "
        "counts the same (GRPO). seq-mean-token-sum-norm: sum divided by the constant maximal length (Dr. "
        "GRPO).",
    )
    fn: UserFunction | None = Field(
        None,
        description="A loss of your own in place of the objective, path/to/file.py:function, called as "
        "function(outputs, batch, config) -> (loss, metrics).",
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
    stale_old_logprobs: Literal["rollout", "trainer"] = Field(
        "rollout",
        description="The same for responses that an earlier policy drew, in whole or in part. rollout: the ratio is to "
        "the policy that drew them. trainer: it is to the trainer's policy before the step's first update, and "
        "importance_sampling weighs from the one that drew them to that (decoupled objective, arXiv 2110.00641 and "
        "2505.24298). trainer, with importance_sampling truncated, is the default where batch.put_off or batch.ahead "
        "is set.",
    )

    @model_validator(mode="after")
    def _stale_responses_are_weighted(self) -> Self:
        if self.stale_old_logprobs == "trainer" and self.importance_sampling.kind == "none":
            raise ValueError(
                "algorithm.loss.stale_old_logprobs 'trainer' needs algorithm.loss.importance_sampling.kind truncated, "
                "masked or rejected: without weights nothing makes up for the policy having changed"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_not_all_one(self) -> Self:
        if self.old_logprobs == "rollout" and self.importance_sampling.kind != "none":
            raise ValueError(
                "algorithm.loss.importance_sampling weighs by trainer / rollout probability, and with "
                "algorithm.loss.old_logprobs 'rollout' the two are the same: use old_logprobs 'recompute', or "
                "importance_sampling.kind 'none'"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.objective == "clip":
            return self
        where = f"algorithm.loss.objective {self.objective!r}"
        if self.dual_clip is not None:
            raise ValueError(
                f"{where} has no use for a dual clip, which bounds losses of 'clip': set algorithm.loss.dual_clip null"
            )
        if self.objective == "cispo":
            return self
        if self.ratio != "token":
            raise ValueError(
                f"{where} clips the ratios of tokens and takes their mean over the response itself: set "
                "algorithm.loss.ratio 'token'"
            )
        if self.aggregation != "seq-mean-token-mean":
            raise ValueError(
                f"{where} is one number per response, and responses count the same: set algorithm.loss.aggregation "
                "'seq-mean-token-mean'"
            )
        if self.importance_sampling.kind != "none" and self.importance_sampling.level == "token":
            raise ValueError(
                f"{where} is one number per response, which weights of single tokens do not fit: set "
                "algorithm.loss.importance_sampling.level 'sequence' or 'geometric'"
            )
        return self


class TokenMaskConfig(Section):
    """Which of the tokens that may be trained are trained."""

    off: ClassVar[Off] = {"kind": "none"}

    kind: Literal["none", "entropy", "custom"] = Field(
        "none",
        description="none: all. entropy: those whose distribution has the highest entropy, over the whole batch "
        "(arXiv 2506.01939). custom: those that fn chooses.",
    )
    share: float = Field(0.2, gt=0, le=1, description="entropy: the share of tokens that is kept.")
    fn: UserFunction | None = Field(
        None,
        description="custom: path/to/file.py:function, called as function(samples) -> one tensor of bools per sample.",
    )

    @model_validator(mode="after")
    def _keys_are_of_the_kind(self) -> Self:
        if (self.kind == "custom") != (self.fn is not None):
            raise ValueError(
                f"token_mask.fn must be set if and only if kind is 'custom'; kind is {self.kind!r}"
            )
        if self.kind != "entropy":
            refuse_without_effect(self, ["share"], f"with kind {self.kind!r}")
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

    off: ClassVar[Off] = {"enabled": False}

    enabled: bool = Field(
        True,
        description="Drop groups with accuracy all 0 or all 1 and generate until the batch is full. Where a reward "
        "function reports no accuracy, groups whose scores are all the same are dropped.",
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


class PolicyGradientConfig(Section):
    """What all algorithms that learn from fresh responses have in common."""

    loss: LossConfig = Field(LossConfig(), description="The objective.")
    kl_in_reward: KlControlConfig = Field(
        KlControlConfig(), description="Price of leaving the reference policy, in the reward."
    )
    reference_refresh_steps: int | None = Field(
        None,
        ge=1,
        description="Make the reference policy what the policy is after every this many steps (iterative GRPO, arXiv "
        "2402.03300); never if unset.",
    )
    token_mask: TokenMaskConfig = Field(TokenMaskConfig(), description="Which tokens are trained.")
    ptx: PtxConfig | None = Field(
        None,
        description="A language-modelling loss on examples beside the policy's loss (PPO-ptx). Its data has the keys "
        "of an SFT recipe's: data.train.columns.solution names the column with the response.",
    )
    dynamic_sampling: DynamicSamplingConfig = Field(
        DynamicSamplingConfig(enabled=False), description="Filtering of groups that teach nothing."
    )

    @property
    def compares_in_groups(self) -> bool:
        """Whether a response is judged against others to the same prompt."""
        return self.dynamic_sampling.enabled

    @model_validator(mode="after")
    def _there_is_a_reference_to_refresh(self) -> Self:
        if self.reference_refresh_steps is not None and not (
            self.loss.kl.coefficient > 0 or self.kl_in_reward.coefficient > 0
        ):
            raise ValueError(
                "algorithm.reference_refresh_steps needs a reference policy: set algorithm.loss.kl.coefficient or "
                "algorithm.kl_in_reward.coefficient above 0"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _keep_the_presets(cls, given: Any) -> Any:
        """Let `loss: {clip_low: 0.1}` change one key of the algorithm's own preset and keep the others."""
        if not isinstance(given, Mapping):
            return given
        merged = dict(given)
        for name in ("loss", "dynamic_sampling"):
            if isinstance(merged.get(name), Mapping):
                merged[name] = overlay(cls.model_fields[name].default.model_dump(), merged[name])
        return merged


class GroupPolicyGradientConfig(PolicyGradientConfig):
    """What all group-relative algorithms choose between."""

    advantage: GroupAdvantage = Field("group_std", description=_ADVANTAGE)

    @property
    def compares_in_groups(self) -> bool:
        """See `PolicyGradientConfig.compares_in_groups`. What a function of the user's compares is not known."""
        return self.advantage in GROUP_ADVANTAGES or self.dynamic_sampling.enabled


class DapoConfig(GroupPolicyGradientConfig):
    """DAPO (arXiv 2503.14476): clip-higher, dynamic sampling, token-level loss, overlong shaping, no KL."""

    kind: Literal["dapo"] = Field("dapo", description="Chooses this algorithm.")
    loss: LossConfig = Field(LossConfig(clip_low=0.2, clip_high=0.28), description="The objective.")
    dynamic_sampling: DynamicSamplingConfig = Field(
        DynamicSamplingConfig(), description="Filtering of groups that teach nothing."
    )


class GrpoConfig(GroupPolicyGradientConfig):
    """GRPO (arXiv 2402.03300): group-relative advantage, per-response mean, KL to the reference."""

    kind: Literal["grpo"] = Field("grpo", description="Chooses this algorithm.")
    loss: LossConfig = Field(
        LossConfig(aggregation="seq-mean-token-mean", dual_clip=None, kl=KlConfig(coefficient=0.001)),
        description="The objective.",
    )


class DrGrpoConfig(GroupPolicyGradientConfig):
    """Dr. GRPO (arXiv 2503.20783): no division by the standard deviation, constant length normalisation."""

    kind: Literal["dr_grpo"] = Field("dr_grpo", description="Chooses this algorithm.")
    advantage: GroupAdvantage = Field("group_mean", description=_ADVANTAGE)
    loss: LossConfig = Field(
        LossConfig(aggregation="seq-mean-token-sum-norm", dual_clip=None), description="The objective."
    )


class RlooConfig(GroupPolicyGradientConfig):
    """RLOO (arXiv 2402.14740): leave-one-out baseline."""

    kind: Literal["rloo"] = Field("rloo", description="Chooses this algorithm.")
    advantage: GroupAdvantage = Field("leave_one_out", description=_ADVANTAGE)


class GspoConfig(GroupPolicyGradientConfig):
    """GSPO (arXiv 2507.18071): one ratio per response, clipped very tightly."""

    kind: Literal["gspo"] = Field("gspo", description="Chooses this algorithm.")
    loss: LossConfig = Field(
        LossConfig(
            ratio="sequence", clip_low=3e-4, clip_high=4e-4, dual_clip=None, aggregation="seq-mean-token-mean"
        ),
        description="The objective.",
    )


class CispoConfig(GroupPolicyGradientConfig):
    """CISPO (arXiv 2506.13585): the clipped ratio is a weight, so that no token loses its gradient."""

    kind: Literal["cispo"] = Field("cispo", description="Chooses this algorithm.")
    loss: LossConfig = Field(
        LossConfig(objective="cispo", clip_low=1.0, clip_high=4.0, dual_clip=None),
        description="The objective.",
    )


class ReinforceConfig(PolicyGradientConfig):
    """REINFORCE++ (arXiv 2501.03262): advantages whitened over the batch; with baseline group, its baseline variant."""

    kind: Literal["reinforce_plus_plus"] = Field("reinforce_plus_plus", description="Chooses this algorithm.")
    baseline: Literal["none", "group"] = Field(
        "none", description="What is taken off a score before whitening: nothing, or the mean of its group."
    )
    gamma: float = Field(
        1.0, ge=0, le=1, description="Discount from one token to the next, with baseline none."
    )
    loss: LossConfig = Field(LossConfig(dual_clip=None), description="The objective.")

    @property
    def compares_in_groups(self) -> bool:
        """See `PolicyGradientConfig.compares_in_groups`."""
        return self.baseline == "group" or self.dynamic_sampling.enabled

    @model_validator(mode="after")
    def _baseline_has_one_number_per_response(self) -> Self:
        if self.baseline == "group" and self.kl_in_reward.coefficient > 0:
            raise ValueError(
                "algorithm.kl_in_reward is per token, and baseline 'group' compares whole responses: use "
                "algorithm.loss.kl, as the paper does, or baseline 'none'"
            )
        if self.baseline == "group" and self.gamma != 1.0:
            raise ValueError(f"algorithm.gamma is for baseline 'none'; it is {self.gamma}")
        return self


class PpoConfig(PolicyGradientConfig):
    """PPO (arXiv 1707.06347) with a critic, generalised advantage estimation, and KL in the reward."""

    kind: Literal["ppo"] = Field("ppo", description="Chooses this algorithm.")
    loss: LossConfig = Field(LossConfig(dual_clip=None), description="The policy's objective.")
    value_loss: ValueLossConfig = Field(ValueLossConfig(), description="The critic's objective.")
    gae: GaeConfig = Field(GaeConfig(), description="Advantages from the critic's values.")
    critic_warmup_steps: int = Field(
        0, ge=0, description="Steps at the beginning in which the critic alone is trained."
    )


class DistillationConfig(GroupPolicyGradientConfig):
    """On-policy distillation (arXiv 2306.13649): the teacher's judgement of every token the policy sampled."""

    kind: Literal["distillation"] = Field("distillation", description="Chooses this algorithm.")
    teacher_weight: float = Field(
        1.0, gt=0, description="Weight of log(teacher / policy) in each token's advantage."
    )
    reward_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the response's advantage by its reward, as `advantage` says, beside it; 0: the teacher "
        "alone.",
    )
    loss: LossConfig = Field(LossConfig(clip_low=0.2, clip_high=0.2), description="The objective.")

    @property
    def compares_in_groups(self) -> bool:
        """See `PolicyGradientConfig.compares_in_groups`; without a weight rewards are only logged."""
        return (self.reward_weight > 0 and super().compares_in_groups) or self.dynamic_sampling.enabled

    @model_validator(mode="after")
    def _advantage_is_used(self) -> Self:
        if self.reward_weight == 0:
            refuse_without_effect(self, ["advantage"], "with reward_weight 0")
            if self.kl_in_reward.coefficient > 0:
                raise ValueError("algorithm.kl_in_reward.coefficient has no effect with reward_weight 0")
        return self


class CustomConfig(PolicyGradientConfig):
    """An algorithm of your own: see docs/how_to/own_algorithm.md."""

    kind: Literal["custom"] = Field("custom", description="Chooses this algorithm.")
    fn: UserFunction = Field(
        description="path/to/file.py:function, called as function(config, updates_per_step) -> Algorithm, where config "
        "is this section."
    )
    parameters: dict[str, Any] = Field({}, description="Whatever the function reads from config.parameters.")

    @model_validator(mode="after")
    def _brings_no_examples(self) -> Self:
        if self.ptx is not None:
            raise ValueError(
                "algorithm.ptx must be unset with algorithm.kind custom, which is given no examples: use one of the "
                "other kinds with algorithm.advantage or algorithm.loss.fn"
            )
        return self


GroupAlgorithmConfig = DapoConfig | GrpoConfig | DrGrpoConfig | RlooConfig | GspoConfig | CispoConfig
AlgorithmConfig = Annotated[
    GroupAlgorithmConfig | ReinforceConfig | PpoConfig | DistillationConfig | CustomConfig,
    Field(discriminator="kind"),
]
