"""What recipes that train have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.cluster import ClusterConfig, LocalClusterConfig, without_generation
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.reward_model import PairwiseJudgeConfig, PointwiseJudgeConfig
from reasoner_rl.config.rollout import (
    RolloutConfig,
    SamplingConfig,
    VllmEngineConfig,
)
from reasoner_rl.config.rules import (
    check_no_generation_workers,
    check_one_template,
    check_overlong,
    check_profile,
    check_ranks,
    check_spread,
    check_tensor_parallel,
    check_warmup,
)
from reasoner_rl.config.run import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    RunConfig,
)
from reasoner_rl.config.training import (
    TrainingConfig,
)


class TrainingRecipe(Section):
    """What recipes that train have in common."""

    recipe: Any
    run: RunConfig = Field(description="Place and length of the run.")
    model: ModelConfig = Field(description="The policy.")
    data: Any
    rollout: RolloutConfig = Field(RolloutConfig(), description="Generation.")
    reward: RewardConfig = Field(RewardConfig(), description="Scoring.")
    algorithm: Any
    batch: Any
    training: TrainingConfig = Field(TrainingConfig(), description="The optimizer and its backend.")
    cluster: ClusterConfig = Field(
        LocalClusterConfig(), description="The processes: local (one) or ray (many)."
    )
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Held-out accuracy.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.")
    logging: LoggingConfig = Field(LoggingConfig(), description="Records.")

    @field_validator("evaluation", mode="before")
    @classmethod
    def _evaluation_samples_as_training(cls, given: Any, info: ValidationInfo) -> Any:
        """Lay the keys of evaluation.sampling over those of training."""
        sampling = given.get("sampling") if isinstance(given, Mapping) else None
        if "rollout" not in info.data or not isinstance(sampling, Mapping):  # they break rules of their own
            return given
        return {**given, "sampling": {**info.data["rollout"].sampling.model_dump(), **sampling}}

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        """How held-out problems are answered."""
        return self.evaluation.sampling or self.rollout.sampling

    @property
    def generates(self) -> bool:
        """Whether the run has a rollout engine."""
        return bool(self.evaluation.datasets)

    @property
    def policy_steps(self) -> int:
        """Steps in which the policy is trained."""
        return self.run.steps

    @property
    def _policy_steps_key(self) -> str:
        return "run.steps"

    @property
    def max_sequence_tokens(self) -> int:
        """The longest prompt and response that are generated, together."""
        responses = (self.rollout.sampling, self.evaluation_sampling)
        longest: int = max(sampling.max_response_tokens for sampling in responses)
        return int(self.data.prompts.max_tokens) + longest

    @model_validator(mode="after")
    def _entropies_are_of_responses(self) -> Self:
        if self.recipe != "online":
            refuse_without_effect(self.logging, ["entropies"], f"with recipe {self.recipe!r}", "logging.")
        return self

    @model_validator(mode="after")
    def _generation_has_work(self) -> Self:
        if self.recipe != "online":
            check_no_generation_workers(self.cluster, self.recipe)
        return self

    @model_validator(mode="after")
    def _overlong_buffer_fits(self) -> Self:
        if not self.generates:
            return self
        check_overlong(self.reward, self.rollout.sampling, "rollout.sampling")
        if self.evaluation.sampling is not None:
            check_overlong(self.reward, self.evaluation.sampling, "evaluation.sampling")
        return self

    @model_validator(mode="after")
    def _one_way_to_ask(self) -> Self:
        check_one_template(self.data.prompts, {"data.train": self.data.train, **self.evaluation.by_key})
        return self

    @model_validator(mode="after")
    def _ranks_can_be_divided(self) -> Self:
        check_tensor_parallel(self.rollout.engine, self.cluster, "rollout.engine")
        check_profile(self.run, self.cluster)
        check_spread(self.reward, self.cluster)
        check_ranks(self.training.backend, self.model, self.cluster)
        return self

    @model_validator(mode="after")
    def _weights_can_be_shared(self) -> Self:
        engine, model = self.rollout.engine, self.model
        if not isinstance(engine, VllmEngineConfig) or not engine.share_weights:
            return self
        wanted = {
            "cluster must have one worker": self.cluster.ranks == 1
            and without_generation(self.cluster) == self.cluster,
            "rollout.engine.tensor_parallel must be 1": engine.tensor_parallel == 1,
            "model.dtype must be 'float32', the format of the trainer's weights": model.dtype == "float32",
            "rollout.engine.dtype must be unset or 'float32'": engine.dtype in (None, "float32"),
            "model.lora must be unset": model.lora is None,
            "training.backend.kind must be 'fsdp'": self.training.backend.kind == "fsdp",
            "training.offload must be 'none'": self.training.offload == "none",
        }
        if broken := [rule for rule, holds in wanted.items() if not holds]:
            raise ValueError(f"rollout.engine.share_weights: {'; '.join(broken)}")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        check_warmup(self.training.schedule, self.policy_steps, self._policy_steps_key, "training.schedule")
        return self


class SamplingRecipe(TrainingRecipe):
    """What recipes have in common that sample answers to training problems, and score them."""

    reward_model: PointwiseJudgeConfig | PairwiseJudgeConfig | None = Field(
        None,
        discriminator="kind",
        description="A model whose score is added to that of reward.functions: pointwise or pairwise.",
    )

    @property
    def generates(self) -> bool:
        """See `TrainingRecipe.generates`."""
        return True

    @property
    def reward_model_checkpoint(self) -> ModelConfig | None:
        """The reward model's checkpoint, with its own tokenizer; None without a reward model."""
        if self.reward_model is None:
            return None
        beside = self.model.frozen_beside(self.reward_model.path)
        return beside.model_copy(update={"tokenizer": None, "chat_template": None})

    @property
    def model_judges_alone(self) -> bool:
        """Whether the verifier has no say: reward.functions have weight 0 and measure accuracy, and a model scores."""
        return self.reward_model is not None and not any(f.weight for f in self.reward.functions)

    @model_validator(mode="after")
    def _answers_can_be_compared(self) -> Self:
        responses = self.rollout.responses_per_prompt
        if not isinstance(self.reward_model, PairwiseJudgeConfig):
            return self
        if responses < 2:
            raise ValueError(
                "rollout.responses_per_prompt must be at least 2 with a pairwise reward_model, which compares the "
                f"responses to a prompt; it is {responses}"
            )
        opponents = self.reward_model.opponents
        if opponents is not None and opponents >= responses:
            raise ValueError(
                f"reward_model.opponents must be below rollout.responses_per_prompt: {opponents} is not below "
                f"{responses}"
            )
        return self
