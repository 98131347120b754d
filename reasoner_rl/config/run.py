"""Sections about the run itself: its place, its records, its evaluations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from reasoner_rl.config.base import Off, Section, UserPath, refuse_without_effect
from reasoner_rl.config.data import DatasetConfig
from reasoner_rl.config.rollout import SamplingConfig


def _steps(given: Any) -> Any:
    """A step, or a range as in 3-5, as a list of steps; anything else as it is."""
    if isinstance(given, str) and (bounds := re.fullmatch(r"(\d+)-(\d+)", given.strip())):
        first, last = int(bounds[1]), int(bounds[2])
        if first > last:
            raise ValueError(f"the range {given!r} ends before it begins")
        return list(range(first, last + 1))
    return [given] if isinstance(given, int) else given


class RunConfig(Section):
    """Identity and length of a run."""

    output_dir: UserPath = Field(description="Folder for everything the run writes.")
    seed: int = Field(0, ge=0, description="Decides sampling, shuffling and initialisation.")
    steps: int = Field(100, ge=0, description="Training steps.")
    resume: Literal["auto", "never"] = Field(
        "auto",
        description="auto: resume from the newest checkpoint in output_dir, and an evaluation from its finished parts. "
        "never: refuse if there is one.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of torch in this process; its own choice if unset. Workers that Ray starts have "
        "cluster.cpus_per_worker.",
    )
    profile: Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_steps)] = Field(
        [],
        description="Training steps that torch.profiler traces: a step, a list of steps, or a range such as 3-5. Each "
        "gives output_dir/profile/step_N.json.gz, a Chrome trace with named ranges for the phases, which Perfetto and "
        "chrome://tracing show. A traced step takes longer. For cluster.kind=local alone: with Ray the work is done in "
        "other processes.",
    )

    @model_validator(mode="after")
    def _profiled_steps_are_made(self) -> Self:
        if late := [step for step in self.profile if step > self.steps]:
            raise ValueError(f"run.profile names step {late[0]}, and run.steps is {self.steps}")
        return self


class HeldOutConfig(Section):
    """Held-out problems, and how often each is tried."""

    datasets: list[DatasetConfig] = Field([], description="Files of held-out problems.")
    samples_per_prompt: int = Field(
        1, ge=1, description="Responses per problem: k of avg@k, maj@k and pass@k."
    )

    @property
    def by_key(self) -> dict[str, DatasetConfig]:
        """The datasets by their keys in a recipe."""
        return {f"evaluation.datasets.{place}": dataset for place, dataset in enumerate(self.datasets)}

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        check_labels_differ([dataset.label for dataset in self.datasets])
        return self


class HeldOutPartsConfig(HeldOutConfig):
    """Held-out problems of an evaluation by itself, which can be interrupted."""

    responses_per_part: int | None = Field(
        None,
        ge=1,
        description="Responses, rounded down to whole problems, after which what is finished is kept. Unset: as many "
        "as fill all engines once. Fewer lose less in an interruption, and more keep the engines fuller.",
    )


class EvaluationConfig(HeldOutConfig):
    """Accuracy on held-out problems while training."""

    off: ClassVar[Off] = {"datasets": [], "every_steps": None}

    every_steps: int | None = Field(
        None, ge=1, description="Evaluate every this many steps; never in between if unset."
    )
    at_start: bool = Field(True, description="Evaluate before the first step.")
    at_end: bool = Field(True, description="Evaluate after the last step.")
    sampling: SamplingConfig | None = Field(
        None, description="Sampling for evaluation; keys not given are those of rollout.sampling."
    )

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> Self:
        check_something_to_evaluate(self.every_steps, self.datasets, "problems")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.sampling is not None:
            check_samples_differ(self.samples_per_prompt, self.sampling, "evaluation.sampling")
        return self


def check_labels_differ(labels: Sequence[str]) -> None:
    """Raise ValueError where two of evaluation.datasets have the same name."""
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"evaluation.datasets have the same name {repeated}; give each a name of its own")


def check_something_to_evaluate(every_steps: int | None, datasets: Sequence[Section], what: str) -> None:
    """Raise ValueError where evaluations are asked for and there are no datasets. what: they hold."""
    if every_steps is not None and not datasets:
        raise ValueError(
            f"evaluation.every_steps is {every_steps}, but evaluation.datasets is empty: name the {what}, or set "
            "evaluation.every_steps to null"
        )


def check_samples_differ(samples: int, sampling: SamplingConfig, key: str) -> None:
    """Raise ValueError where several responses per problem are asked for, and all would be the same."""
    if samples > 1 and sampling.temperature == 0:
        raise ValueError(
            f"evaluation.samples_per_prompt must be 1 where {key}.temperature is 0: greedy responses to a "
            f"prompt are all equal; it is {samples}"
        )


class CheckpointConfig(Section):
    """Saving what is needed to resume after any interruption."""

    off: ClassVar[Off] = (
        "checkpoint.every_steps=null saves at the end alone, checkpoint.export_at_end=false exports no weights"
    )

    every_steps: int | None = Field(
        50, ge=1, description="Save every this many steps; only at the end if unset."
    )
    keep_last: int = Field(2, ge=1, description="Older checkpoints are deleted.")
    export_at_end: bool = Field(
        True, description="Write the final weights as a Hugging Face checkpoint to output_dir/final."
    )


class WandbConfig(Section):
    """Weights & Biases; needs the extra `wandb`."""

    project: str = Field("reasoner_rl", description="Project name.")
    name: str | None = Field(None, description="Name of the run; the folder's if unset.")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        None,
        description="online: needs a key (`wandb login` or WANDB_API_KEY). offline: writes into output_dir, for "
        "`wandb sync` later. disabled: logs nothing. If unset, as WANDB_MODE says, or online.",
    )


class RecordConfig(Section):
    """Records for people."""

    rollouts: Literal["all", "first_group", "none"] = Field(
        "all",
        description="Which responses are recorded in output_dir/rollouts: of every group, of one group a "
        "step, or none. Evaluations are recorded in full, or not at all with none.",
    )
    rollout_format: Literal["parquet", "jsonl", "both"] = Field(
        "both",
        description="parquet: all that is known of a response, per token (docs/reference/records.md). jsonl: one line "
        "per response for people, with means. both: a file of each.",
    )
    progress: bool | Literal["auto"] = Field(
        "auto",
        description="Progress of long work on standard error: a bar on a terminal, else a line every 30 seconds; "
        "false: neither.",
    )


class LoggingConfig(RecordConfig):
    """Records of a run that trains; metrics.jsonl is always written."""

    off: ClassVar[Off] = "logging.rollouts=none and logging.tensorboard=false leave metrics.jsonl alone"

    entropies: bool = Field(
        False,
        description="Record the policy's entropy at each response token that is trained on, in the parquet records of "
        "`reasoner-rl train`: one more forward pass per step.",
    )
    tensorboard: bool = Field(True, description="Write TensorBoard events to output_dir/tensorboard.")
    wandb: WandbConfig | None = Field(None, description="Log to Weights & Biases.")
    console_every_steps: int = Field(
        1,
        ge=1,
        description="A line on the console for every so many steps, for the last one and for each evaluation.",
    )

    @model_validator(mode="after")
    def _entropies_are_recorded(self) -> Self:
        if self.rollouts == "none" or self.rollout_format == "jsonl":
            reason = f"with rollouts {self.rollouts!r} and rollout_format {self.rollout_format!r}"
            refuse_without_effect(
                self, ["entropies"], f"{reason}: only parquet records have a value per token"
            )
        return self
