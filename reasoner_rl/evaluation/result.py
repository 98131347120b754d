"""The result file of an evaluation: accuracies with their error bars, and everything that is needed to repeat them.

``evaluation.json`` is one `EvaluationResult`. docs/how_to/evaluate.md says what its keys mean. Hashes are SHA-256 in
hexadecimal. What is not known, as of generations that were made elsewhere, is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasoner_rl.errors import DataError, did_you_mean

RESULT_FILE = "evaluation.json"
VERSION = 1
_ABSENT = "(not there)"


class Record(BaseModel):
    """A part of the file. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelRecord(Record):
    """The weights."""

    path: str = Field(description="As the recipe names it.")
    weights_sha256: str = Field(description="Of the names and hashes of all files of weights.")
    config_sha256: str = Field(
        description="Of the names and hashes of config.json, generation_config.json, adapter_config.json and, with "
        "model.trust_remote_code, Python files: those that are there."
    )
    bytes: int = Field(description="Of the files of weights.")
    dtype: str = Field(description="Number format in which the engine holds them.")


class TokenizerRecord(Record):
    """The tokenizer."""

    path: str
    sha256: str = Field(description="Of the names and hashes of the tokenizer's files.")
    chat_template_sha256: str | None = Field(
        description="Of the text of the chat template in force; null without one."
    )


class PromptRecord(Record):
    """How prompts were rendered."""

    template: str | None = Field(
        description="data.prompts.template; null: prompts as in the data, by the other keys."
    )
    system: str | None = Field(description="System prompt that was added to prompts without one.")
    chat_template: bool = Field(description="Whether the chat template was applied.")
    max_tokens: int
    overlong: str = Field(description="What was done with longer prompts.")


class VerifierFunctionRecord(Record):
    """One reward function, with the parameters that hold in evaluation."""

    fn: str
    source_sha256: str = Field(
        description="Of the function's file, or of all Python files of its package, which it may import."
    )
    parameters: dict[str, Any]
    weight: float
    failure_score: float


class VerifierRecord(Record):
    """The reward functions. The first one decides accuracy."""

    functions: list[VerifierFunctionRecord]
    timeout_seconds: float
    memory_gib: float | None


class DataRecord(Record):
    """The problems of one set."""

    path: str
    sha256: str = Field(description="Of the file.")
    rows: dict[str, Any] = Field(
        description="The dataset's keys in the recipe that choose or change rows; of `eval score`, --columns."
    )
    prompts_sha256: str | None = Field(
        description="Of the prompts as the model reads them, in order, with all that the verifier is given."
    )
    first_prompt: str | None = Field(description="As the model reads it.")


class Settings(Record):
    """Everything that the numbers depend on. Evaluations with equal settings, paths aside, are the same."""

    model: ModelRecord | None
    tokenizer: TokenizerRecord | None
    prompts: PromptRecord | None
    sampling: dict[str, Any] | None = Field(description="All keys of rollout.sampling.")
    samples_per_problem: int
    seed: int | None
    engine: dict[str, Any] | None = Field(description="All keys of rollout.engine.")
    verifier: VerifierRecord
    versions: dict[str, str] = Field(description="Of Python and of packages that decide numbers.")
    data: dict[str, DataRecord] = Field(description="By the name of the set.")

    @property
    def greedy(self) -> bool:
        """Whether decoding was greedy, which is temperature 0."""
        return self.sampling is not None and self.sampling.get("temperature") == 0


class LengthRecord(Record):
    """Responses of one kind."""

    responses: int
    mean_tokens: float | None = Field(description="null without responses, or without counts of tokens.")


class ProblemRecord(Record):
    """Results on one problem. k is samples_per_problem."""

    uid: str = Field(description="Name of the set / index of the row in its file.")
    problem_sha256: str = Field(description="Of the problem's text without instructions.")
    prompt_sha256: str | None = Field(description="Of the token ids of the rendered prompt.")
    ground_truth: str
    correct: int | None = Field(
        description="Right ones of the k responses; null if the accuracy of one is not known."
    )
    accuracy: float | None = Field(description="Mean over the k responses.")
    majority_answer: str | None = Field(
        description="The answer that most responses give; null without answers."
    )
    truncated: int | None = Field(description="Of the k responses.")
    unanswered: int = Field(description="Of the k responses.")


class SetReport(Record):
    """Accuracy on one set. Shares and accuracies are in [0, 1]."""

    dataset: str
    problems: int
    samples_per_problem: int
    accuracy: float | None = Field(description="avg@k: mean over problems of the mean over samples.")
    ci_low: float | None = Field(description="95 % interval of the accuracy, over problems.")
    ci_high: float | None
    pass_at: dict[int, float] | None = Field(
        description="By k: powers of two up to samples_per_problem, and that."
    )
    pass_at_k: float | None
    majority_at_k: float | None
    truncated_share: float | None
    unanswered_share: float
    mean_response_tokens: float | None
    mean_score: float | None
    lengths: dict[Literal["right", "wrong", "truncated"], LengthRecord] = Field(
        description="truncated: cut off and not right; wrong: neither cut off nor right."
    )
    table: list[ProblemRecord] = Field(description="One entry per problem, in the order of the set.")


class Machine(Record):
    """The machine; recorded and not compared."""

    platform: str
    cpu_count: int
    device: str


class EvaluationResult(Record):
    """The whole file."""

    format: Literal["reasoner_rl.evaluation"] = "reasoner_rl.evaluation"
    version: Literal[1] = 1
    made: str = Field(description="When, in UTC.")
    how: Literal["generated", "rescored", "scored"] = Field(
        description="generated here; rescored: earlier generations with another verifier; scored: generations made "
        "elsewhere."
    )
    source: dict[str, str] | None = Field(
        description="Of rescored: path and sha256 of the result whose responses were judged, which are in evaluations/ "
        "beside it."
    )
    settings: Settings
    machine: Machine
    reports: list[SetReport]

    def report(self, dataset: str) -> SetReport:
        """The report of one set. Raises KeyError if there is none."""
        return {report.dataset: report for report in self.reports}[dataset]


def result_path(place: Path) -> Path:
    """The result file that a folder or a path names."""
    return place / RESULT_FILE if place.is_dir() else place


def read_result(place: Path) -> EvaluationResult:
    """Read the result file at a path, or in a folder. Raises DataError naming the file and the key."""
    path = result_path(place)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = (
            "" if place.exists() else did_you_mean(place.name, [one.name for one in place.parent.glob("*")])
        )
        reason = error.strerror if isinstance(error, OSError) else error
        hint = near or " `reasoner-rl eval RECIPE` writes it when it has finished"
        raise DataError(f"{path}: cannot be read: {reason}.{hint}") from error
    try:
        return EvaluationResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: is no result file of version {VERSION}: {key or 'the file'}: {first['msg']}"
        ) from None


def differences(before: Settings, after: Settings) -> list[tuple[str, str, str]]:
    """Key, and the value in each, of the settings that differ. Files are compared by hash and not by path.

    A section that only one of them has is one entry.
    """
    return list(_differences("", before.model_dump(), after.model_dump()))


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    old, new = _numbered(old), _numbered(new)
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield key, _shown(old), _shown(new)
        return
    for name in dict.fromkeys((*old, *new)):
        if name == "path":
            continue
        path = f"{key}.{name}" if key else str(name)
        if str(name).endswith("sha256") and old.get(name) != new.get(name):
            yield path, _shown_hash(name, old), _shown_hash(name, new)
        else:
            yield from _differences(path, old.get(name, _ABSENT), new.get(name, _ABSENT))


def _numbered(value: Any) -> Any:
    """A list of mappings as a mapping from their numbers."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return dict(enumerate(value))
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):  # and there is none in the other: its name says enough
        names = [value[key] for key in ("path", "kind", "fn") if key in value]
        value = names[0] if names else f"{len(value)} keys"
    text = "null" if value is None else " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _shown_hash(name: str, values: Mapping[str, Any]) -> str:
    """The beginning of a hash, and the place of what it is of."""
    value, place = values.get(name), values.get("path")
    if value is None:
        return _ABSENT if name not in values else "null"
    return f"{value[:12]} ({place})" if place else str(value[:12])
