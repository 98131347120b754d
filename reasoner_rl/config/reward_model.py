"""Reward models: how they learn from pairs, and how they judge in reinforcement learning."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, UserPathOrName, refuse_without_effect
from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.config.preference import JudgedData
from reasoner_rl.config.run import check_labels_differ, check_something_to_evaluate


class ComparisonConfig(Section):
    """The text in which a pairwise reward model reads two answers, and the tokens by which it names the better one."""

    template: str = Field(
        "<T>{prompt}<A>{first}<B>{second}<W>",
        description="Text before the label; {prompt}, {first} and {second} are replaced by the texts of the prompt's "
        "messages and of the two answers.",
    )
    labels: tuple[str, str] = Field(
        ("A", "B"),
        description="What follows if the first answer is better, and if the second is: one token each.",
    )

    @model_validator(mode="after")
    def _all_is_read(self) -> Self:
        missing = [part for part in ("{prompt}", "{first}", "{second}") if part not in self.template]
        if missing:
            raise ValueError(f"template must contain {', '.join(missing)}; it is {self.template!r}")
        if self.labels[0] == self.labels[1]:
            raise ValueError(f"labels must differ; both are {self.labels[0]!r}")
        return self


class PointwiseConfig(Section):
    """A score per answer, learnt from pairs by the Bradley-Terry model (arXiv 2203.02155)."""

    data: ClassVar[JudgedData] = "pairs"

    kind: Literal["pointwise"] = Field("pointwise", description="Chooses this algorithm.")
    center: float = Field(
        0.0,
        ge=0,
        description="Weight of the square of the sum of a pair's scores, which keeps them around 0 (arXiv 2312.09244, "
        "with 0.01).",
    )


class PairwiseConfig(Section):
    """A comparison of two answers: the model reads both, and predicts the label of the better one."""

    data: ClassVar[JudgedData] = "pairs"

    kind: Literal["pairwise"] = Field("pairwise", description="Chooses this algorithm.")
    comparison: ComparisonConfig = Field(ComparisonConfig(), description="What the model reads.")


RewardModelAlgorithmConfig = Annotated[PointwiseConfig | PairwiseConfig, Field(discriminator="kind")]


class PairEvaluationConfig(Section):
    """How often the model is right about held-out pairs, and how sure it is."""

    datasets: list[JudgedDatasetConfig] = Field([], description="Files of held-out pairs.")
    every_steps: int | None = Field(
        None, ge=1, description="Evaluate every this many steps; never in between if unset."
    )
    at_start: bool = Field(True, description="Evaluate before the first step.")
    at_end: bool = Field(True, description="Evaluate after the last step.")
    bins: int = Field(10, ge=2, description="Bins of the reliability diagram and the calibration error.")

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        check_labels_differ([dataset.label for dataset in self.datasets])
        return self

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> Self:
        check_something_to_evaluate(self.every_steps, self.datasets, "pairs")
        return self


class _JudgeConfig(Section):
    path: UserPathOrName = Field(description="Folder of the reward model's checkpoint, or a name on the hub.")
    weight: float = Field(
        1.0, gt=0, description="What its score counts in the reward, beside reward.functions."
    )
    offload: Literal["none", "all"] | None = Field(
        None,
        description="Whether it moves to host memory while a GPU generates or trains; if unset, as training.offload "
        "says of weights.",
    )


class PointwiseJudgeConfig(_JudgeConfig):
    """A reward model that scores every response by itself."""

    kind: Literal["pointwise"] = Field("pointwise", description="Chooses this kind of reward model.")
    retokenize: bool = Field(
        False,
        description="For a model with another tokenizer than the policy's: the prompt's messages are rendered with the "
        "model's own chat template, and the response's text, without special tokens, follows in its own tokens. "
        "false: it reads the policy's tokens as they were sampled.",
    )


class PairwiseJudgeConfig(_JudgeConfig):
    """A reward model that compares the responses to a prompt with each other; a score is a mean probability to win."""

    kind: Literal["pairwise"] = Field("pairwise", description="Chooses this kind of reward model.")
    comparison: ComparisonConfig | None = Field(
        None, description="What the model reads; what it was trained with, as its checkpoint says, if unset."
    )
    schedule: Literal["round_robin", "knockout"] = Field(
        "round_robin",
        description="Who is compared, of G responses. round_robin: everyone with everyone, G (G - 1) / 2 comparisons, "
        "or with `opponents`. knockout: losers leave, G - 1 comparisons; a score is the sum of the probabilities to "
        "win over the number of rounds. Every comparison is read in both orders.",
    )
    opponents: int | None = Field(
        None,
        ge=1,
        description="round_robin: how many others each response is compared with, drawn at random: about G x opponents "
        "/ 2 comparisons. All if unset.",
    )

    @model_validator(mode="after")
    def _opponents_are_drawn(self) -> Self:
        if self.schedule == "knockout":
            refuse_without_effect(self, ["opponents"], "with schedule 'knockout'")
        return self
