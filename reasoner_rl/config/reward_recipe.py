"""The recipe of a reward model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.cluster import ClusterConfig, LocalClusterConfig
from reasoner_rl.config.data import PreferenceDataConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import PreferenceBatchConfig
from reasoner_rl.config.reward_model import PairEvaluationConfig, PointwiseConfig, RewardModelAlgorithmConfig
from reasoner_rl.config.rules import check_no_generation_workers, check_profile, check_ranks, check_warmup
from reasoner_rl.config.run import CheckpointConfig, LoggingConfig, RunConfig
from reasoner_rl.config.training import TrainingConfig


class RewardModelConfig(Section):
    """A reward model that learns from pairs of answers: `reasoner-rl train`."""

    recipe: Literal["reward_model"] = Field("reward_model", description="Kind of recipe.")
    run: RunConfig = Field(description="Place and length of the run; with 0 steps the model is evaluated.")
    model: ModelConfig = Field(
        description="The model that becomes a reward model, or one that is a reward model already."
    )
    data: PreferenceDataConfig = Field(description="Pairs of answers.")
    algorithm: RewardModelAlgorithmConfig = Field(
        PointwiseConfig(), description="The kind of reward model: pointwise or pairwise."
    )
    batch: PreferenceBatchConfig = Field(PreferenceBatchConfig(), description="Sizes of a step.")
    training: TrainingConfig = Field(TrainingConfig(), description="The optimizer and its backend.")
    cluster: ClusterConfig = Field(
        LocalClusterConfig(), description="The processes: local (one) or ray (many)."
    )
    evaluation: PairEvaluationConfig = Field(
        PairEvaluationConfig(), description="Accuracy and calibration on held-out pairs."
    )
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.")
    logging: LoggingConfig = Field(LoggingConfig(), description="Records.")

    @model_validator(mode="after")
    def _ranks_can_be_divided(self) -> Self:
        check_no_generation_workers(self.cluster, self.recipe)
        check_profile(self.run, self.cluster)
        check_ranks(self.training.backend, self.model, self.cluster)
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        check_warmup(self.training.schedule, self.run.steps, "run.steps", "training.schedule")
        return self

    @model_validator(mode="after")
    def _margins_are_used(self) -> Self:
        if self.algorithm.kind == "pairwise":
            reason = "with algorithm.kind pairwise, which learns probabilities"
            refuse_without_effect(self.data.train.columns, ["margin"], reason, "data.train.columns.")
        return self

    @model_validator(mode="after")
    def _no_responses_are_recorded(self) -> Self:
        reason = "in a reward_model recipe, which generates nothing"
        refuse_without_effect(self.logging, ["rollouts", "rollout_format"], reason, "logging.")
        return self
