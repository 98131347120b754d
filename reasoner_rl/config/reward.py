"""How responses are scored."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from reasoner_rl.config.base import Off, Section, UserPathOrName

_MATH_ANSWER = (
    "reward_fns:compute_score",
    "reward_fns.registry:compute_score",
    "reward_fns.math_answer:compute_score",
)


class RewardFunctionConfig(Section):
    """One verifier or other reward function."""

    fn: UserPathOrName = Field(
        description="package.module:function or path/to/file.py:function, called as "
        "fn(data_source, solution_str, ground_truth, extra_info, **parameters) -> float | dict. May be async."
    )
    name: str | None = Field(
        None, description="Name in metrics and in the rollout record; the function's if unset."
    )
    weight: float = Field(1.0, description="Its share in the weighted sum.")
    parameters: dict[str, Any] = Field({}, description="Keyword arguments passed on every call.")
    evaluation_parameters: dict[str, Any] | None = Field(
        None,
        description="Laid over `parameters` when held-out problems are evaluated, not in training. Unset: "
        "{long_decimals: true} for reward_fns' verifier of mathematical answers, nothing for other functions.",
    )
    batch: bool | None = Field(
        None,
        description="Whether it takes lists, fn(data_sources, solution_strs, ground_truths, extra_infos, "
        "**parameters) -> list. Unset: it does if it has a parameter solution_strs.",
    )

    failure_score: float | None = Field(
        None,
        description="Score of an answer on which the function raises, ends its process or takes too long, lowered to "
        "the worst verdict of its group. Unset: parameters.wrong_score if there is one, else -1.",
    )

    @property
    def changed_in_evaluation(self) -> dict[str, Any]:
        """The parameters that are laid over ``parameters`` in evaluation."""
        if self.evaluation_parameters is not None:
            return self.evaluation_parameters
        # 0.333333 is right for 1/3 there: nothing is trained on it.
        lenient = self.fn in _MATH_ANSWER and "long_decimals" not in self.parameters
        return {"long_decimals": True} if lenient else {}

    @property
    def label(self) -> str:
        """The name used in metrics."""
        return self.name or self.fn.rsplit(":", 1)[-1]

    @property
    def score_of_failure(self) -> float:
        """What a failure of the function counts as, before it is compared with the verdicts of its group."""
        if self.failure_score is not None:
            return self.failure_score
        return float(self.parameters.get("wrong_score", -1.0))

    @model_validator(mode="after")
    def _names_a_function(self) -> Self:
        module, separator, function = self.fn.rpartition(":")
        if not (separator and module and function.isidentifier()):
            raise ValueError(
                "reward function must read package.module:function or path/to/file.py:function; "
                f"it is {self.fn!r}"
            )
        return self

    @model_validator(mode="after")
    def _failure_has_a_score(self) -> Self:
        wrong = self.parameters.get("wrong_score", -1.0)
        if self.failure_score is not None:  # then wrong_score is the function's own affair
            return self
        if (
            isinstance(wrong, bool)
            or not isinstance(wrong, int | float)
            or not abs(wrong) <= sys.float_info.max
        ):
            raise ValueError(f"parameters.wrong_score must be a finite number; it is {wrong!r}")
        return self


class OverlongConfig(Section):
    """What happens to responses that are too long (DAPO, arXiv 2503.14476, section 3.4)."""

    off: ClassVar[Off] = {"buffer_tokens": 0, "mask_truncated": False}

    buffer_tokens: int = Field(
        0,
        ge=0,
        description="Soft punishment: the last this many tokens before the limit cost up to `penalty`. "
        "0: off.",
    )
    penalty: float = Field(1.0, ge=0, description="Largest punishment, reached at the limit.")
    mask_truncated: bool = Field(
        False, description="Overlong filtering: responses cut off at the limit are masked out of the loss."
    )


class SecondOpinionConfig(Section):
    """Another verifier that judges some responses of training too, and on which no reward depends."""

    function: RewardFunctionConfig = Field(
        description="It must say whether a response is right: by 'acc' in the dict that it returns, or by returning "
        "True or False. Its weight has no effect."
    )
    share: float = Field(
        0.05, gt=0, le=1, description="Of different responses that are judged twice, chosen by their text."
    )
    workers: int = Field(1, ge=1, description="Processes of its own.")


class RewardConfig(Section):
    """The reward of a response: a weighted sum of functions, then shaping by length."""

    functions: list[RewardFunctionConfig] = Field(
        [RewardFunctionConfig(fn="reward_fns:compute_score")],
        min_length=1,
        description="The first one decides accuracy, which the filter and the evaluation read: by 'acc' in the dict "
        "that it returns, or by returning True or False. From any other number no accuracy is guessed.",
    )
    overlong: OverlongConfig = Field(OverlongConfig(), description="Punishment or masking of long responses.")
    second_opinion: SecondOpinionConfig | None = Field(
        None,
        description="Has a share of the responses judged by a second verifier; disagreements about accuracy are "
        "counted in reward/second_opinion_disagreements and recorded.",
    )
    workers: int = Field(2, ge=1, description="Verifier processes.")
    spread: bool = Field(
        False,
        description="In training with cluster.kind=ray: divide the verifier processes evenly among all machines of the "
        "Ray cluster, at least one on each, instead of having all on the driver's.",
    )
    timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=86400,
        description="Deadline of one call of a function: for one answer, or for a whole batch if it takes "
        "batches. Past it they count as wrong.",
    )
    batch_size: int = Field(
        64, ge=1, description="Most answers in one call of a function that takes batches."
    )
    memory_gib: float | None = Field(
        4.0,
        gt=0,
        description="Memory that a verifier process may have for itself; an answer that needs more counts as "
        "wrong. Address space and mapped files do not count. Null: no limit.",
    )
    recycle_after: int | None = Field(
        10_000,
        ge=1,
        description="Answers after which a verifier process is replaced, so that a leak does no harm. "
        "Null: never.",
    )
    deduplicate: bool = Field(
        True,
        description="Whether answers that are alike in all a function reads are judged once a batch. False for "
        "functions that are random on purpose.",
    )

    def for_evaluation(self) -> RewardConfig:
        """The same with the parameters that hold in evaluation."""
        functions = [
            function.model_copy(
                update={"parameters": {**function.parameters, **function.changed_in_evaluation}}
            )
            for function in self.functions
        ]
        return self.model_copy(update={"functions": functions})

    @property
    def on_one_machine(self) -> RewardConfig:
        """The same with all processes on the driver's machine."""
        return self.model_copy(update={"spread": False})

    @property
    def of_second_opinion(self) -> RewardConfig | None:
        """What the second verifier alone is run with, if there is one."""
        second = self.second_opinion
        if second is None:
            return None
        changes = {"functions": [second.function], "workers": second.workers, "second_opinion": None}
        return self.model_copy(update={**changes, "overlong": OverlongConfig()})

    @property
    def every_function(self) -> list[RewardFunctionConfig]:
        """The functions as training calls them, and then as evaluation does if it has other parameters."""
        lenient = self.for_evaluation().functions
        return self.functions if lenient == self.functions else [*self.functions, *lenient]

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [function.label for function in self.functions]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(f"reward.functions have the same name {repeated}; give each a name of its own")
        return self
