"""Recipes that make their own judged answers and learn from them, in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.data import JudgedDatasetConfig, PreferenceDataConfig, PromptDataConfig
from reasoner_rl.config.preference import (
    DpoConfig,
    PreferenceAlgorithmConfig,
    PreferenceBatchConfig,
    ReferenceConfig,
)
from reasoner_rl.config.recipes import PreferenceConfig
from reasoner_rl.config.rollout import RolloutConfig
from reasoner_rl.config.rules import check_preference_step, check_reference
from reasoner_rl.config.run import RunConfig
from reasoner_rl.config.training_recipe import SamplingRecipe
from reasoner_rl.seeding import derive_seed


class IteratedRunConfig(RunConfig):
    """Identity of a run, and the length of its rounds."""

    steps: int = Field(100, ge=1, description="Training steps in each round.")
    resume: Literal["auto", "never"] = Field(
        "auto",
        description="auto: keep the rounds in output_dir that are finished, and resume the one that is not. never: "
        "refuse if there are any.",
    )


class IteratedDataConfig(PromptDataConfig):
    """Problems to answer, and how they are ordered."""

    shuffle: bool = Field(
        True,
        description="Shuffle the problems anew each time that all were answered, and what a round learns from anew "
        "each epoch, from run.seed.",
    )


class RoundsConfig(Section):
    """How often answers are sampled and learnt from."""

    count: int = Field(3, ge=1, description="Rounds. With a higher number a finished run continues.")
    problems: int | None = Field(
        None,
        ge=1,
        description="Problems answered in a round: the next ones, and after the last the first again. If unset: all of "
        "them in every round.",
    )


class PairsConfig(Section):
    """How a prompt's answers become pairs."""

    choice: Literal["best_worst", "all"] = Field(
        "best_worst", description="best_worst: the best with the worst answer. all: every pair that differs."
    )
    margin: float = Field(0.0, ge=0, description="Scores of a pair differ by more than this.")


class IteratedConfig(SamplingRecipe):
    """Rounds of sampling answers, scoring them and learning from them: `reasoner-rl train`.

    Iterative DPO is arXiv 2312.16682 and, with a likelihood term, 2404.19733.
    """

    recipe: Literal["iterated"] = Field("iterated", description="Kind of recipe.")
    run: IteratedRunConfig = Field(description="Place of the run and length of its rounds.")
    data: IteratedDataConfig = Field(description="Problems to answer.")
    rounds: RoundsConfig = Field(RoundsConfig(), description="Number and size of rounds.")
    pairs: PairsConfig = Field(PairsConfig(), description="Making of pairs, for dpo, orpo and simpo.")
    algorithm: PreferenceAlgorithmConfig = Field(
        DpoConfig(), description="The algorithm: dpo, kto, orpo, simpo or score_weighted_sft."
    )
    reference: ReferenceConfig | None = Field(
        None,
        description="The reference of algorithms dpo and kto, in all rounds; the model at each round's start if unset.",
    )
    batch: PreferenceBatchConfig = Field(PreferenceBatchConfig(), description="Sizes of a step.")

    def sampling_of_round(self, number: int, weights: str) -> IteratedConfig:
        """The same with a round's weights, and a seed that draws other answers than earlier rounds, from 1 on.

        The first round's is run.seed, as in `data make-preferences`.
        """
        run, seed = self.run, self.run.seed
        if number > 1:
            seed = derive_seed("round", number, seed) % 2**31
        changes = {
            "run": run.model_copy(update={"seed": seed}),
            "model": self.model.model_copy(update={"path": weights}),
        }
        return self.model_copy(update=changes)

    def training_of_round(
        self, weights: str, data: Path, output: Path, *, evaluate_at_start: bool
    ) -> PreferenceConfig:
        """The recipe by which a round learns from the files that were made of its answers in the folder ``data``."""
        evaluates = bool(self.evaluation.datasets)
        no_groups = {"responses_per_prompt": RolloutConfig.model_fields["responses_per_prompt"].default}
        run = self.run.model_dump() | {"output_dir": output, "resume": "auto"}
        parts = {name: getattr(self, name) for name in ("training", "cluster", "checkpoint", "logging")}
        if evaluates:
            parts |= {"rollout": self.rollout.model_copy(update=no_groups), "reward": self.reward}
        return PreferenceConfig(
            run=RunConfig(**run),
            model=self.model.model_copy(update={"path": weights}),
            data=PreferenceDataConfig(
                train=JudgedDatasetConfig(path=data / f"{self.algorithm.data}.jsonl"),
                prompts=self.data.prompts,
                max_response_tokens=self.rollout.sampling.max_response_tokens + 1,  # and the end of sequence
                shuffle=self.data.shuffle,
            ),
            algorithm=self.algorithm,
            reference=self.reference,
            batch=self.batch,
            evaluation=self.evaluation.model_copy(update={"at_start": evaluate_at_start}),
            **parts,
        )

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        sampling, count = self.rollout.sampling, self.rollout.responses_per_prompt
        if sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling.temperature must be above 0: greedy responses to a prompt are all equal"
            )
        if self.algorithm.data == "pairs" and count < 2:
            raise ValueError(
                f"rollout.responses_per_prompt must be at least 2 with algorithm.kind {self.algorithm.kind}, which "
                f"learns from pairs; it is {count}"
            )
        return self

    @model_validator(mode="after")
    def _pairs_are_used(self) -> Self:
        if self.algorithm.data != "pairs":
            reason = f"with algorithm.kind {self.algorithm.kind}, which learns from single answers"
            refuse_without_effect(self.pairs, PairsConfig.model_fields, reason, "pairs.")
        return self

    @model_validator(mode="after")
    def _judging_has_the_device(self) -> Self:
        if self.reward_model is not None:
            reason = "in an iterated recipe: the reward model is alone on the device while it judges"
            refuse_without_effect(self.reward_model, ["offload"], reason, "reward_model.")
        return self

    @model_validator(mode="after")
    def _syncs_happen(self) -> Self:
        if not self.evaluation.datasets:
            reason = "without evaluation.datasets: a round's answers are drawn by a model that was loaded"
            refuse_without_effect(
                self.rollout, ["sync_check", "sync_tolerance", "sync_bucket_mib"], reason, "rollout."
            )
        return self

    @model_validator(mode="after")
    def _rounds_can_follow(self) -> Self:
        check_preference_step(self.algorithm, self.batch)
        check_reference(self.reference, self.algorithm)
        if not self.checkpoint.export_at_end:
            raise ValueError(
                "checkpoint.export_at_end must be true in an iterated recipe: the next round starts from the weights"
            )
        return self
