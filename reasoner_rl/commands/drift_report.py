"""What `reasoner-rl drift` found, and what of it is no longer flat; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.evaluation.intervals import Tally, confidence_interval, tails
from reasoner_rl.hybrid.layers import PartGap
from reasoner_rl.observability.token_gaps import (
    GapsOf,
    ResponseGaps,
    gaps_by_position,
    worst_responses,
)
from reasoner_rl.observability.trends import Row, replay

CHANCE = 0.01  # of a step off the others although nothing moved, in all steps together
WATCHED = ("gap", "sync_gap")

Accuracies = list[list[float]]  # [problems][samples]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. Gaps are in nats; None: not known, or not checked."""

    step: int
    accuracies: Accuracies | None  # None: there are responses of which it is not known
    gap_mean: float | None
    gap_max: float | None
    sync_gap: float | None

    @property
    def accuracy(self) -> float | None:
        """Mean over the problems."""
        return Tally.of(self.accuracies).mean if self.accuracies else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy."""
        return confidence_interval(self.accuracies) if self.accuracies else None


@dataclass(frozen=True, slots=True)
class WorstToken:
    """A token of the vocabulary, and how its logprobs differ."""

    gaps: GapsOf
    text: str  # quoted


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All of it."""

    steps: list[StepReport]
    responses: list[ResponseGaps]
    tokens: list[WorstToken]  # with the largest mean gap
    problems: list[str]  # what is not flat, for people; none: all is
    parts: list[PartGap] = field(default_factory=list)  # in the order of the pass; none: not compared

    @property
    def positions(self) -> list[GapsOf]:
        """Gaps by position in the response."""
        return gaps_by_position(self.responses)

    def worst(self, most: int) -> list[ResponseGaps]:
        """The responses with the largest mean gap."""
        return worst_responses(self.responses, most)


def step_report(row: Row, accuracies: Accuracies | None) -> StepReport:
    """row: of metrics.jsonl."""
    names = ("policy/rollout_gap_mean", "policy/rollout_gap_max", "sync/check_gap")
    return StepReport(row["step"], accuracies, *(row.get(name) for name in names))


def problems_of(
    steps: Sequence[StepReport], rows: Sequence[Row], limits: DriftConfig, *, same_weights: bool
) -> list[str]:
    """What is not flat, or beyond an absolute limit."""
    found = [] if same_weights else ["weights: they have changed, with learning rate 0"]
    found += [f"accuracy: {text}" for text in _accuracy_problems(steps)]
    others = {name: None for name in type(limits).model_fields if name not in (*WATCHED, *_RULES)}
    alarms = replay(rows, limits.model_copy(update=others), responses_per_prompt=1)
    return found + [f"step {alarm.step}: {alarm}" for alarm in alarms]


_RULES = ("on_alarm", "returns", "window", "after", "deviations")


def _accuracy_problems(steps: Sequence[StepReport]) -> list[str]:
    """Steps whose accuracy the mean of all steps would give with a chance below `CHANCE` over the number of steps."""
    known = [step for step in steps if step.accuracies]
    if len(known) < 2:
        return []
    mean = fmean(step.accuracy or 0.0 for step in known)
    if not 0 < mean < 1:
        return []
    found = []
    for step in known:
        assert step.accuracies is not None
        chance = min(1.0, 2 * min(tails(Tally.of(step.accuracies), mean)))
        if chance < CHANCE / len(known):
            found.append(
                f"step {step.step} has {step.accuracy:.3f}, where all steps have {mean:.3f}: a chance of {chance:.1g}"
            )
    return found
