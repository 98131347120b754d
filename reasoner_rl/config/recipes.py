"""The kinds of recipe, and the rules that tie their sections together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from reasoner_rl.config.algorithm import AlgorithmConfig, BatchConfig, CustomConfig, DapoConfig, PpoConfig
from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.cluster import ClusterConfig, LocalClusterConfig
from reasoner_rl.config.data import EvalDataConfig, PreferenceDataConfig, PromptDataConfig, SftDataConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.offline import SftAlgorithmConfig, SftBatchConfig
from reasoner_rl.config.preference import (
    DpoConfig,
    PreferenceAlgorithmConfig,
    PreferenceBatchConfig,
    ReferenceConfig,
)
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.reward_model import PairwiseJudgeConfig, PointwiseJudgeConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.rollout import (
    GenerationConfig,
    RolloutConfig,
    SamplingConfig,
    VllmEngineConfig,
)
from reasoner_rl.config.rules import (
    check_one_template,
    check_overlong,
    check_preference_step,
    check_ranks,
    check_reference,
    check_selection,
    check_tensor_parallel,
    check_warmup,
)
from reasoner_rl.config.run import (
    CheckpointConfig,
    EvaluationConfig,
    HeldOutConfig,
    HeldOutPartsConfig,
    LoggingConfig,
    RecordConfig,
    RunConfig,
    check_samples_differ,
)
from reasoner_rl.config.training import (
    CriticConfig,
    TeacherConfig,
    TrainingConfig,
)
from reasoner_rl.errors import ConfigError


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
        check_ranks(self.training.backend, self.model, self.cluster)
        return self

    @model_validator(mode="after")
    def _weights_can_be_shared(self) -> Self:
        engine, model = self.rollout.engine, self.model
        if not isinstance(engine, VllmEngineConfig) or not engine.share_weights:
            return self
        wanted = {
            "cluster must have one worker": self.cluster.ranks == 1,
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


class OnlineConfig(SamplingRecipe):
    """Reinforcement learning with fresh responses: `reasoner-rl train`."""

    recipe: Literal["online"] = Field("online", description="Kind of recipe.")
    data: PromptDataConfig = Field(description="Training prompts.")
    algorithm: AlgorithmConfig = Field(
        DapoConfig(),
        description="The algorithm: dapo, grpo, dr_grpo, rloo, gspo, cispo, reinforce_plus_plus, ppo, distillation or "
        "custom.",
    )
    critic: CriticConfig | None = Field(
        None, description="The critic of algorithm ppo; by default as the policy."
    )
    teacher: TeacherConfig | None = Field(None, description="The teacher of algorithm distillation.")
    batch: BatchConfig = Field(BatchConfig(), description="Sizes of a step.")

    @property
    def teacher_model(self) -> ModelConfig | None:
        """The teacher's checkpoint, with the policy's tokenizer; None without a teacher."""
        return None if self.teacher is None else self.model.frozen_beside(self.teacher.path)

    @property
    def critic_model(self) -> ModelConfig | None:
        """The critic's checkpoint, with the policy's tokenizer; None if critic.path is unset."""
        if self.critic is None or self.critic.path is None:
            return None
        tokenizer = self.model.tokenizer or self.model.path
        return self.model.model_copy(update={"path": self.critic.path, "tokenizer": tokenizer})

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        if self.rollout.responses_per_prompt < 2 and self.algorithm.compares_in_groups:
            raise ValueError(
                f"rollout.responses_per_prompt must be at least 2 with algorithm.kind {self.algorithm.kind}: an "
                "advantage within the group, or its filter, needs another response to compare with; it is "
                f"{self.rollout.responses_per_prompt}"
            )
        return self

    @model_validator(mode="after")
    def _selection_has_groups(self) -> Self:
        check_selection(self.data.selection, self.algorithm, self.rollout.responses_per_prompt)
        return self

    @model_validator(mode="after")
    def _teacher_is_there_and_used(self) -> Self:
        kind = self.algorithm.kind
        if self.teacher is None and kind == "distillation":
            raise ValueError("algorithm.kind distillation needs a teacher: set teacher.path")
        if self.teacher is not None and kind not in ("distillation", "custom"):
            raise ValueError(f"teacher is for algorithm.kind distillation or custom; it is {kind}")
        return self

    @model_validator(mode="after")
    def _reference_is_a_model_of_its_own(self) -> Self:
        if self.model.lora is not None and self.algorithm.reference_refresh_steps is not None:
            raise ValueError(
                "algorithm.reference_refresh_steps must be unset with model.lora: the reference is the model without "
                "its adapters, which does not change"
            )
        return self

    @model_validator(mode="after")
    def _critic_is_used(self) -> Self:
        if self.critic is not None and not isinstance(self.algorithm, PpoConfig | CustomConfig):
            raise ValueError(f"critic is for algorithm.kind ppo or custom; it is {self.algorithm.kind}")
        if self.critic is not None:
            check_warmup(self.critic.schedule, self.run.steps, "run.steps", "critic.schedule")
        return self

    @property
    def policy_steps(self) -> int:
        """See `TrainingRecipe.policy_steps`: not those in which the critic alone is."""
        return max(0, self.run.steps - self._critic_warmup_steps)

    @property
    def _policy_steps_key(self) -> str:
        return "run.steps - algorithm.critic_warmup_steps" if self._critic_warmup_steps else "run.steps"

    @property
    def _critic_warmup_steps(self) -> int:
        return self.algorithm.critic_warmup_steps if isinstance(self.algorithm, PpoConfig) else 0

    @model_validator(mode="after")
    def _policy_is_trained(self) -> Self:
        warmup = self._critic_warmup_steps
        if 0 < self.run.steps <= warmup:
            raise ValueError(
                "algorithm.critic_warmup_steps must be below run.steps, or the policy is never trained: "
                f"{warmup} is not below {self.run.steps}"
            )
        return self

    @model_validator(mode="after")
    def _training_samples(self) -> Self:
        if self.rollout.sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling.temperature must be above 0 in training: greedy responses to a prompt are "
                "all equal"
            )
        return self

    @model_validator(mode="after")
    def _rollout_logprobs_are_comparable(self) -> Self:
        """Logprobs of a cut distribution are higher than the trainer's for the same weights."""
        sampling, loss = self.rollout.sampling, self.algorithm.loss
        filtered = self.algorithm.dynamic_sampling
        cuts = {"top_p": 1.0, "top_k": 0, "min_response_tokens": 0}
        cut = [key for key, neutral in cuts.items() if getattr(sampling, key) != neutral]
        uses = {
            "algorithm.loss.old_logprobs must not be 'rollout'": loss.old_logprobs == "rollout",
            "algorithm.loss.importance_sampling.kind must be 'none'": loss.importance_sampling.kind != "none",
            "algorithm.dynamic_sampling.max_staleness must be 0": filtered.enabled
            and filtered.max_staleness > 0,
        }
        if cut and any(uses.values()):
            raise ValueError(
                f"rollout.sampling.{cut[0]}={getattr(sampling, cut[0])} leaves tokens out in generation, so its "
                "logprobs cannot stand beside the trainer's: "
                + "; ".join(rule for rule, broken in uses.items() if broken)
                + f" (or rollout.sampling.{cut[0]}={cuts[cut[0]]})"
            )
        return self

    @model_validator(mode="after")
    def _examples_have_the_models_own_distribution(self) -> Self:
        """All logprobs of an update are at the temperature of the sampling."""
        temperature = self.rollout.sampling.temperature
        if self.algorithm.ptx is not None and temperature != 1:
            raise ValueError(
                "rollout.sampling.temperature must be 1 with algorithm.ptx, whose loss is of the model's own "
                f"distribution: it is {temperature}"
            )
        return self

    @model_validator(mode="after")
    def _batch_can_be_filled(self) -> Self:
        filtered = self.algorithm.dynamic_sampling
        at_a_time = self.batch.prompts_per_generation or self.batch.prompts_per_step
        if not filtered.enabled and at_a_time > self.batch.prompts_per_step:
            reason = f"above batch.prompts_per_step ({self.batch.prompts_per_step}) without dynamic sampling"
            refuse_without_effect(self.batch, ["prompts_per_generation"], reason, "batch.")
        if filtered.enabled and at_a_time * filtered.max_generation_batches < self.batch.prompts_per_step:
            raise ValueError(
                "batch.prompts_per_generation x algorithm.dynamic_sampling.max_generation_batches must be at "
                f"least batch.prompts_per_step, or no step is ever full: {at_a_time} x "
                f"{filtered.max_generation_batches} is below {self.batch.prompts_per_step}"
            )
        return self


class SftConfig(TrainingRecipe):
    """Supervised fine-tuning on worked examples: `reasoner-rl sft`."""

    recipe: Literal["sft"] = Field("sft", description="Kind of recipe.")
    data: SftDataConfig = Field(description="Examples.")
    algorithm: SftAlgorithmConfig = Field(SftAlgorithmConfig(), description="The algorithm.")
    batch: SftBatchConfig = Field(SftBatchConfig(), description="Sizes of a step.")

    @model_validator(mode="after")
    def _nothing_is_in_groups(self) -> Self:
        reason = "in an sft recipe: evaluation draws evaluation.samples_per_prompt"
        refuse_without_effect(self.rollout, ["responses_per_prompt"], reason, "rollout.")
        return self


class PreferenceConfig(TrainingRecipe):
    """Learning from judged answers, without generation: `reasoner-rl train`."""

    recipe: Literal["preference"] = Field("preference", description="Kind of recipe.")
    data: PreferenceDataConfig = Field(description="Judged answers.")
    algorithm: PreferenceAlgorithmConfig = Field(
        DpoConfig(), description="The algorithm: dpo, kto, orpo, simpo or score_weighted_sft."
    )
    reference: ReferenceConfig | None = Field(
        None, description="The reference of algorithms dpo and kto; the model at the start if unset."
    )
    batch: PreferenceBatchConfig = Field(PreferenceBatchConfig(), description="Sizes of a step.")

    @property
    def reference_model(self) -> ModelConfig | None:
        """The reference's checkpoint, with the policy's tokenizer; None if it is the model at the start."""
        return None if self.reference is None else self.model.frozen_beside(self.reference.path)

    @model_validator(mode="after")
    def _nothing_is_in_groups(self) -> Self:
        reason = "in a preference recipe: evaluation draws evaluation.samples_per_prompt"
        refuse_without_effect(self.rollout, ["responses_per_prompt"], reason, "rollout.")
        return self

    @model_validator(mode="after")
    def _margins_are_not_read(self) -> Self:
        reason = "in a preference recipe: margins are for recipes of kind reward_model"
        refuse_without_effect(self.data.train.columns, ["margin"], reason, "data.train.columns.")
        return self

    @model_validator(mode="after")
    def _other_prompts_are_in_a_step(self) -> Self:
        check_preference_step(self.algorithm, self.batch)
        return self

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        check_reference(self.reference, self.algorithm)
        return self


class EvalConfig(Section):
    """Accuracy of a checkpoint: `reasoner-rl eval`."""

    recipe: Literal["eval"] = Field("eval", description="Kind of recipe.")
    run: RunConfig = Field(description="Place of the report, and the seed.")
    model: ModelConfig = Field(description="The model.")
    data: EvalDataConfig = Field(EvalDataConfig(), description="Rendering of prompts.")
    rollout: GenerationConfig = Field(GenerationConfig(), description="Generation.")
    reward: RewardConfig = Field(RewardConfig(), description="Scoring.")
    cluster: ClusterConfig = Field(
        LocalClusterConfig(), description="The processes: local (one) or ray (many)."
    )
    evaluation: HeldOutPartsConfig = Field(description="Problems and number of samples.")
    logging: RecordConfig = Field(RecordConfig(), description="Records.")

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> Self:
        if not self.evaluation.datasets:
            raise ValueError("evaluation.datasets must name at least one file of problems; it is empty")
        return self

    @model_validator(mode="after")
    def _one_way_to_ask(self) -> Self:
        check_one_template(self.data.prompts, self.evaluation.by_key)
        return self

    @model_validator(mode="after")
    def _ranks_can_be_divided(self) -> Self:
        check_tensor_parallel(self.rollout.engine, self.cluster, "rollout.engine")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        check_samples_differ(self.evaluation.samples_per_prompt, self.rollout.sampling, "rollout.sampling")
        return self

    @model_validator(mode="after")
    def _overlong_buffer_fits(self) -> Self:
        check_overlong(self.reward, self.rollout.sampling, "rollout.sampling")
        return self

    @classmethod
    def of_training(cls, config: TrainingRecipe, weights: str) -> EvalConfig:
        """The evaluation that a training recipe describes, of other weights, in a folder of its own below the run's.

        Raises ConfigError if the recipe names no problems to evaluate.
        """
        if not config.evaluation.datasets:
            raise ConfigError("evaluation.datasets is empty: name at least one file of problems")
        return cls(
            run=config.run.model_copy(update={"output_dir": config.run.output_dir / "eval"}),
            model=config.model.model_copy(update={"path": weights}),
            data=EvalDataConfig(prompts=config.data.prompts),
            rollout=GenerationConfig(engine=config.rollout.engine, sampling=config.evaluation_sampling),
            reward=config.reward,
            cluster=config.cluster,
            evaluation=HeldOutPartsConfig(**dict(_shared(HeldOutConfig, config.evaluation))),
            logging=_shared(RecordConfig, config.logging),
        )

    @classmethod
    def of_answers(cls, config: SamplingRecipe, folder: Path) -> EvalConfig:
        """The sampling of answers to a recipe's training problems into ``folder``, as in its first step."""
        return cls(
            run=config.run.model_copy(update={"output_dir": folder}),
            model=config.model,
            data=EvalDataConfig(prompts=config.data.prompts),
            rollout=_shared(GenerationConfig, config.rollout),
            reward=config.reward,
            cluster=config.cluster,
            evaluation=HeldOutPartsConfig(
                datasets=[config.data.train], samples_per_prompt=config.rollout.responses_per_prompt
            ),
            logging=_shared(RecordConfig, config.logging),
        )


S = TypeVar("S", bound=Section)


def _shared(base: type[S], section: S) -> S:
    """The keys of ``section`` that its base class has too."""
    return base(**{name: getattr(section, name) for name in base.model_fields})


# Recipes that train what generates, and all that train.
AnsweringConfig = OnlineConfig | SftConfig | PreferenceConfig
TrainConfig = AnsweringConfig | RewardModelConfig
Recipe = TrainConfig | EvalConfig
