"""Where prompts and examples come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Section, UserPath, refuse_without_effect

DAPO_PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


# Ways to ask for an answer, by name; prompts/templates.py has their texts.
TemplateName = Literal["none", "chat", "qwen-math", "dapo", "minerva"]


def resolved_template(template: str | None) -> str:
    """A prompt template with its shorthand resolved; the bare problem if there is none."""
    return DAPO_PROMPT if template == "dapo" else template or "{problem}"


class ColumnMap(Section):
    """Which column of flat rows, in JSONL or parquet, holds what."""

    problem: str | Annotated[list[str], Field(min_length=1)] = Field(
        "problem",
        description="Column with the problem's text; or several, such as [Body, Question], joined by a space. A list "
        "of messages with role and content in it is taken as the whole prompt.",
    )
    answer: str = Field("answer", description="Column with the ground truth.")
    answer_form: Literal["whole", "hash", "boxed"] = Field(
        "whole",
        description="Where in its column the ground truth stands. whole: it is all there is. hash: behind the last "
        "####, as in GSM8K. boxed: in the last \\boxed{} of a worked solution.",
    )
    data_source: str | None = Field(
        None, description="Column that names the data source; see data_source beside `columns` if unset."
    )
    solution: str | None = Field(None, description="Column with a worked solution (SFT).")
    id: str | None = Field(
        None,
        description="Column with an id of the problem, which becomes extra_info.index and is not compared when "
        "repetitions are dropped; no two problems may have the same. The number of the row, from 0, if unset.",
    )
    extra: list[str] | None = Field(
        None,
        description="Which of the other columns reward functions are given, as extra_info; all of them if unset.",
    )

    @property
    def problem_columns(self) -> tuple[str, ...]:
        """The columns that make up the problem's text."""
        return (self.problem,) if isinstance(self.problem, str) else tuple(self.problem)


class DatasetConfig(Section):
    """Problems from one or several files."""

    path: UserPath | Annotated[list[UserPath], Field(min_length=1)] = Field(
        description="A .parquet or .jsonl file; or a list of files, which are read in order as one dataset."
    )
    name: str | None = Field(None, description="Name in metrics and reports; the file's stem if unset.")
    format: Literal["auto", "verl", "jsonl"] = Field(
        "auto",
        description="verl: rows of data_source, prompt (list of role/content), reward_model.ground_truth, "
        "extra_info. jsonl: flat rows read through `columns`. Both may be in parquet or JSONL. auto: decided by the "
        "first row of each file.",
    )
    columns: ColumnMap = Field(ColumnMap(), description="Column names of flat rows.")
    data_source: str | None = Field(
        None,
        description="Data source of flat rows, by which reward_fns chooses its rule; the file's stem if unset.",
    )
    prompt_template: str | None = Field(
        "{problem}",
        description="Text of the user's message for flat rows; {problem} is replaced. "
        "The words 'dapo' stand for the prompt of DAPO-Math-17K. Rows in verl's format hold the whole prompt, and the "
        "report of reading says that the template has no effect on them.",
    )
    start: int = Field(0, ge=0, description="First row used, after de-duplication.")
    limit: int | None = Field(
        None, ge=1, description="Number of rows used, after de-duplication; all if unset."
    )
    deduplicate: bool = Field(
        True,
        description="Drop rows that were seen before: alike in prompt, ground truth, solution, if one is read, data "
        "source and extra_info (of flat rows: the other columns), but for the row's number, extra_info.index.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error",
        description="What a row does that cannot be read, such as one without a ground truth: end with an error that "
        "names file, row and column, or be skipped and counted.",
    )

    @model_validator(mode="after")
    def _template_has_problem(self) -> Self:
        template = self.prompt_template
        if template is not None and template != "dapo" and "{problem}" not in template:
            raise ValueError(f"prompt_template must contain {{problem}}, or be 'dapo'; it is {template!r}")
        return self

    @model_validator(mode="after")
    def _flat_rows_are_read(self) -> Self:
        if self.format == "verl":
            reason = "with format 'verl', whose rows say it themselves"
            refuse_without_effect(self, FLAT_KEYS, reason)
            refuse_without_effect(self.columns, FLAT_COLUMNS, reason, "columns.")
        if self.data_source is not None and self.columns.data_source is not None:
            raise ValueError(
                f"data_source {self.data_source!r} and columns.data_source {self.columns.data_source!r} exclude each "
                "other"
            )
        return self

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        for number, path in enumerate(self.paths):
            if path in self.paths[:number]:
                raise ValueError(f"path names {str(path)!r} twice")
        return self

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(self.path) if isinstance(self.path, list) else (self.path,)

    @property
    def label(self) -> str:
        """The name used in metrics."""
        return self.name or "+".join(path.stem for path in self.paths)

    @property
    def file_labels(self) -> tuple[str, ...]:
        """What the uids of each file's problems begin with; different for all files of a list."""
        if len(self.paths) == 1:
            return (self.label,)
        stems = [path.stem for path in self.paths]
        if len(set(stems)) < len(stems):  # gsm8k/train.parquet, math/train.parquet
            absolute = [path.absolute() for path in self.paths]
            common = os.path.commonpath([path.parent for path in absolute])
            stems = [path.relative_to(common).as_posix() for path in absolute]
        return tuple(f"{self.name}/{stem}" if self.name else stem for stem in stems)

    @property
    def template(self) -> str:
        """The prompt template with its shorthand resolved."""
        return resolved_template(self.prompt_template)


# Keys that have no effect on verl's rows, which say it themselves.
FLAT_KEYS = ("prompt_template", "data_source")
FLAT_COLUMNS = ("problem", "answer", "answer_form", "data_source", "id", "extra")


class PromptConfig(Section):
    """How a row becomes tokens."""

    template: TemplateName | None = Field(
        None,
        description="Ask for the answer in a published way, by its name, in place of apply_chat_template, system and "
        "the data's own instructions: none (the problem's text alone), chat (the text in the chat template), qwen-math "
        "(chat template, with Qwen2.5-Math's system prompt), dapo (DAPO's instruction), minerva (four worked examples, "
        "no chat template). Unset: as the data and the other keys say.",
    )
    apply_chat_template: bool | Literal["auto"] = Field(
        "auto", description="Wrap the messages with the chat template; auto: when the tokenizer has one."
    )
    system: str | None = Field(None, description="System message put before every prompt that has none.")
    max_tokens: int = Field(2048, ge=1, description="Longest prompt, in tokens after the chat template.")
    overlong: Literal["truncate_left", "drop", "error"] = Field(
        "truncate_left", description="What to do with a longer prompt. DAPO truncates on the left."
    )

    @model_validator(mode="after")
    def _one_way_to_ask(self) -> Self:
        if self.template is not None:
            reason = f"with template {self.template!r}, which says it itself"
            refuse_without_effect(self, ["apply_chat_template", "system"], reason)
        return self


class PromptSelectionConfig(Section):
    """Prompts by how likely their responses are to be neither all right nor all wrong (prompts/selection.py).

    The run estimates each prompt's pass rate from its own responses. Off if the section is unset; `{}` switches it on.
    """

    half_life_steps: float | None = Field(
        16.0,
        gt=0,
        description="Steps after which what was seen of a prompt counts half, because the policy changes; null: it "
        "always counts whole.",
    )
    floor: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Least weight of a prompt, where 1 is that of one whose group is certainly mixed: none is starved.",
    )
    sharpness: float = Field(
        1.0,
        ge=0,
        description="A prompt's weight is its chance of a mixed group to this power. More wastes fewer groups and "
        "repeats the same prompts more often.",
    )
    group_by: str | None = Field(
        None,
        description="Column of the data, such as a difficulty or a source, whose values tell pass rates apart: the "
        "rates that are expected of prompts not drawn as yet are those of prompts with the same value. Unset: those of "
        "all prompts.",
    )
    importance_weights: bool = Field(
        False,
        description="Multiply a group's advantages by 1 / its weight, scaled to a mean of 1 over the step, so that the "
        "mixture of prompts trained on is that of uniform draws. For group algorithms (grpo, dapo, ...).",
    )
    use_measured: bool = Field(
        True,
        description="Begin with the columns pass_rate and pass_rate_samples of the data, where it has them, as "
        "`reasoner-rl data difficulty` writes them.",
    )


class PromptDataConfig(Section):
    """Prompts for reinforcement learning, and how they are ordered."""

    train: DatasetConfig = Field(description="Problems to train on.")
    prompts: PromptConfig = Field(
        PromptConfig(), description="Rendering of prompts, for training and evaluation."
    )
    shuffle: bool = Field(True, description="Shuffle the prompts anew each epoch, from run.seed.")
    selection: PromptSelectionConfig | None = Field(
        None, description="Draw prompts by what the run has seen of them, in place of epoch after epoch."
    )

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if self.selection is not None:
            refuse_without_effect(self, ["shuffle"], "with data.selection, which draws prompts itself")
        return self


class JudgedColumns(Section):
    """Which column of a file of judged answers holds what; the defaults are the names of TRL's data sets."""

    prompt: str | None = Field(
        "prompt",
        description="Column with the prompt: text, or a list of messages. null: pairs whose two answers begin with it.",
    )
    chosen: str = Field(
        "chosen", description="Column with a pair's better answer: text, or one message in a list."
    )
    rejected: str = Field("rejected", description="Column with a pair's worse answer.")
    completion: str = Field("completion", description="Column with a single answer.")
    label: str = Field(
        "label", description="Column with a single answer's label: true is good, false is bad."
    )
    score: str = Field("reward", description="Column with a single answer's score.")
    margin: str | None = Field(
        None,
        description="Column with how much better a pair's chosen answer is, at least 0: by so much a pointwise reward "
        "model is to score it higher (arXiv 2307.09288).",
    )


class JudgedDatasetConfig(Section):
    """One file of answers that were judged before."""

    path: UserPath = Field(description="A .parquet or .jsonl file.")
    name: str | None = Field(None, description="Name in messages; the file's stem if unset.")
    columns: JudgedColumns = Field(JudgedColumns(), description="Names of columns.")
    prompt_template: str = Field(
        "{prompt}", description="Text of the user's message where the prompt is text; {prompt} is replaced."
    )
    limit: int | None = Field(None, ge=1, description="Number of examples used; all if unset.")
    deduplicate: bool = Field(True, description="Drop examples that were seen before.")

    @model_validator(mode="after")
    def _template_has_prompt(self) -> Self:
        if "{prompt}" not in self.prompt_template:
            raise ValueError(f"prompt_template must contain {{prompt}}; it is {self.prompt_template!r}")
        return self

    @property
    def label(self) -> str:
        """The name used in messages."""
        return self.name or self.path.stem


class PreferenceDataConfig(Section):
    """Judged answers to learn from."""

    train: JudgedDatasetConfig = Field(
        description="Pairs, labelled answers, or scored ones, as the algorithm needs."
    )
    prompts: PromptConfig = Field(PromptConfig(), description="Rendering of prompts.")
    max_response_tokens: int = Field(
        1024, ge=1, description="Examples with a longer answer are dropped, and counted. EOS counts too."
    )
    shuffle: bool = Field(True, description="Shuffle the examples anew each epoch, from run.seed.")


class EvalDataConfig(Section):
    """How held-out problems become prompts."""

    prompts: PromptConfig = Field(PromptConfig(), description="Rendering of prompts.")


class SftDataConfig(Section):
    """Worked examples for supervised fine-tuning."""

    train: DatasetConfig = Field(description="Examples; columns.solution names the response.")
    prompts: PromptConfig = Field(PromptConfig(), description="Rendering of prompts.")
    response_template: str = Field(
        "{solution}",
        description="Text of the response; {solution} and {answer} are replaced. EOS is added and trained.",
    )
    max_response_tokens: int = Field(1024, ge=1, description="Longer responses are dropped, and counted.")
    shuffle: bool = Field(True, description="Shuffle the examples anew each epoch, from run.seed.")

    @model_validator(mode="after")
    def _response_says_something(self) -> Self:
        if "{solution}" not in self.response_template and "{answer}" not in self.response_template:
            raise ValueError(
                f"response_template must contain {{solution}} or {{answer}}; it is {self.response_template!r}"
            )
        return self
