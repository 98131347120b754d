"""The kinds of recipe, and the rules that tie their sections together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from reasoner_rl.config.algorithm import AlgorithmConfig, CustomConfig, DapoConfig, PpoConfig
from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.batch import BatchConfig
from reasoner_rl.config.cluster import ClusterConfig, LocalClusterConfig, without_generation
from reasoner_rl.config.data import EvalDataConfig, PreferenceDataConfig, PromptDataConfig, SftDataConfig
from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.offline import SftAlgorithmConfig, SftBatchConfig
from reasoner_rl.config.preference import (
    DpoConfig,
    PreferenceAlgorithmConfig,
    PreferenceBatchConfig,
    ReferenceConfig,
)
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.rollout import (
    GenerationConfig,
)
from reasoner_rl.config.rules import (
    check_ahead,
    check_no_generation_workers,
    check_one_template,
    check_overlong,
    check_preference_step,
    check_put_off,
    check_reference,
    check_selection,
    check_tensor_parallel,
    check_warmup,
    with_stale_defaults,
)
from reasoner_rl.config.run import (
    HeldOutConfig,
    HeldOutPartsConfig,
    RecordConfig,
    RunConfig,
    check_samples_differ,
)
from reasoner_rl.config.training import (
    CriticConfig,
    TeacherConfig,
)
from reasoner_rl.config.training_recipe import SamplingRecipe, TrainingRecipe
from reasoner_rl.errors import ConfigError


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
    drift: DriftConfig | None = Field(
        DriftConfig(), description="Alarms where numbers of a run leave their course; null: none."
    )

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

    @model_validator(mode="before")
    @classmethod
    def _put_off_responses_are_weighted(cls, given: Any) -> Any:
        return with_stale_defaults(given)

    @model_validator(mode="after")
    def _budget_is_below_the_limit(self) -> Self:
        check_put_off(self.batch, self.rollout.sampling)
        return self

    @model_validator(mode="after")
    def _ahead_can_be_made(self) -> Self:
        check_ahead(self.batch, self.algorithm.dynamic_sampling, self.cluster)
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
            "batch.put_off must be unset": self.batch.put_off is not None,
            "batch.ahead must be unset": self.batch.steps_ahead > 0,
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
        most = self.batch.prompts_per_step * (1 + self.batch.steps_ahead)
        if not filtered.enabled and at_a_time > most:
            of = (
                "prompts_per_step x (1 + batch.ahead.steps)" if self.batch.steps_ahead else "prompts_per_step"
            )
            reason = f"above batch.{of} ({most}) without dynamic sampling"
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
        check_no_generation_workers(self.cluster, self.recipe)
        check_tensor_parallel(self.rollout.engine, self.cluster, "rollout.engine")
        return self

    @model_validator(mode="after")
    def _nothing_is_trained(self) -> Self:
        refuse_without_effect(self.run, ["profile"], "in an evaluation, which has no training steps", "run.")
        refuse_without_effect(self.reward, ["spread"], "in an evaluation by itself", "reward.")
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
            run=config.run.model_copy(update={"output_dir": config.run.output_dir / "eval", "profile": []}),
            model=config.model.model_copy(update={"path": weights}),
            data=EvalDataConfig(prompts=config.data.prompts),
            rollout=GenerationConfig(engine=config.rollout.engine, sampling=config.evaluation_sampling),
            reward=config.reward.on_one_machine,
            cluster=without_generation(config.cluster),
            evaluation=HeldOutPartsConfig(**dict(_shared(HeldOutConfig, config.evaluation))),
            logging=_shared(RecordConfig, config.logging),
        )

    @classmethod
    def of_answers(cls, config: SamplingRecipe, folder: Path) -> EvalConfig:
        """The sampling of answers to a recipe's training problems into ``folder``, as in its first step."""
        return cls(
            run=config.run.model_copy(update={"output_dir": folder, "profile": []}),
            model=config.model,
            data=EvalDataConfig(prompts=config.data.prompts),
            rollout=_shared(GenerationConfig, config.rollout),
            reward=config.reward.on_one_machine,
            cluster=without_generation(config.cluster),
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
