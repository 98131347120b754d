"""Two evaluations of the same problems: the paired difference, and whether it could be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from reasoner_rl.evaluation.paired import Difference, paired_difference
from reasoner_rl.evaluation.result import ProblemRecord, SetReport

SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class ProblemChange:
    """One problem in both evaluations."""

    uid: str  # in the first
    before: float  # accuracy: mean over the samples
    after: float
    answer_before: str | None  # of most samples
    answer_after: str | None


@dataclass(frozen=True, slots=True)
class SetDifference:
    """One set in both evaluations, over the problems that both have."""

    dataset: str
    problems: int  # in both
    only_before: int  # in the first alone
    only_after: int
    other_truths: int  # problems in both whose ground truths are written differently
    accuracy_before: float
    accuracy_after: float
    difference: Difference  # after - before, with its 95 % interval over problems
    p_value: float | None  # of `sign_flip_p_value`; None if a response has partial credit
    changes: tuple[ProblemChange, ...]  # those that differ, the largest change first

    @property
    def same_problems(self) -> bool:
        """Whether both evaluations have all problems."""
        return not self.only_before and not self.only_after

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the difference's 95 % interval, which `paired_difference` always has."""
        low, high = self.difference.low, self.difference.high
        assert low is not None
        assert high is not None
        return low, high

    @property
    def could_be_noise(self) -> bool:
        """Whether the interval holds 0, or the p-value, which is exact, is 0.05 or more."""
        low, high = self.interval
        return low <= 0 <= high or (self.p_value is not None and self.p_value >= SIGNIFICANCE)


def set_difference(before: SetReport, after: SetReport) -> SetDifference | None:
    """Compare two reports problem by problem.

    None if they have no problem in common, or if the accuracy on one of these is not known.
    """
    old, new = _by_problem(before), _by_problem(after)
    common = [key for key in old if key in new]
    pairs = [(old[key], new[key]) for key in common]
    changes, scaled = [], []
    for row, other in pairs:
        if row.accuracy is None or other.accuracy is None:
            return None
        changes.append(
            ProblemChange(row.uid, row.accuracy, other.accuracy, row.majority_answer, other.majority_answer)
        )
        scaled.append(_counts_difference(row, before, other, after))
    if not changes:
        return None
    old_samples = {row.uid: _samples(row, before) for row, _ in pairs}
    new_samples = {row.uid: _samples(other, after) for row, other in pairs}
    flips = [count for count in scaled if count is not None]
    return SetDifference(
        dataset=before.dataset,
        problems=len(changes),
        only_before=len(old) - len(common),
        only_after=len(new) - len(common),
        other_truths=sum(row.ground_truth != other.ground_truth for row, other in pairs),
        accuracy_before=sum(c.before for c in changes) / len(changes),
        accuracy_after=sum(c.after for c in changes) / len(changes),
        difference=paired_difference(old_samples, new_samples),
        p_value=sign_flip_p_value(flips) if len(flips) == len(scaled) else None,
        changes=tuple(
            sorted(
                (c for c in changes if c.before != c.after),
                key=lambda c: (-abs(c.after - c.before), c.after - c.before),
            )
        ),
    )


def samples_by_problem(report: SetReport) -> dict[str, list[float]]:
    """The accuracies of each problem's samples, in no order, by the hash of its text and its number among equal texts.

    Raises ValueError if one is not known, or is between 0 and 1: reports have only the mean of such accuracies.
    """
    found = {}
    for (text, number), row in _by_problem(report).items():
        if row.accuracy is None:
            raise ValueError(f"{report.dataset}: the accuracy of {row.uid} is not known")
        found[f"{text}/{number}"] = samples = _samples(row, report)
        if len(samples) < report.samples_per_problem:
            raise ValueError(
                f"{report.dataset}: responses to {row.uid} have accuracies between 0 and 1, and the result holds their "
                "mean alone"
            )
    return found


def sign_flip_p_value(differences: Sequence[int]) -> float:
    """Two-sided p-value of a paired randomisation test, exact; ``differences`` is [problems], in whole steps.

    If the two evaluations differed by chance alone, each problem's difference would have either sign with the same
    probability. The value is the probability that the absolute sum is then at least as large as observed (Fisher, "The
    Design of Experiments", 1935, section 21). All signs are counted, by adding one problem at a time to the
    distribution of the sum.
    """
    unit = math.gcd(*differences) or 1
    steps = [abs(step) // unit for step in differences if step]
    total = sum(steps)
    chances = numpy.zeros(2 * total + 1)  # of sums from -total to total
    chances[total] = 1.0
    for step in steps:
        shifted = numpy.zeros_like(chances)
        shifted[step:] = chances[:-step]
        shifted[:-step] += chances[step:]
        chances = shifted / 2
    observed = abs(sum(differences)) // unit
    sums = numpy.abs(numpy.arange(-total, total + 1))
    return float(min(1.0, chances[sums >= observed].sum()))


def _by_problem(report: SetReport) -> dict[tuple[str, int], ProblemRecord]:
    """Rows by the hash of the problem's text and its number, from 0, among rows with the same text."""
    rows: dict[tuple[str, int], ProblemRecord] = {}
    for row in report.table:
        number = 0
        while (row.problem_sha256, number) in rows:
            number += 1
        rows[row.problem_sha256, number] = row
    return rows


def _samples(row: ProblemRecord, report: SetReport) -> list[float]:
    """The accuracies of a problem's samples, in no order; of partial credit their mean, as one sample."""
    k, accuracy = report.samples_per_problem, row.accuracy or 0.0
    if row.correct is None or abs(accuracy * k - row.correct) > 1e-9:
        return [accuracy]
    return [1.0] * row.correct + [0.0] * (k - row.correct)


def _counts_difference(
    row: ProblemRecord, before: SetReport, other: ProblemRecord, after: SetReport
) -> int | None:
    """The difference of the accuracies in steps of 1 / (k x k'); None if one has partial credit."""
    k, m = before.samples_per_problem, after.samples_per_problem
    if row.correct is None or other.correct is None or row.accuracy is None or other.accuracy is None:
        return None
    if abs(row.accuracy * k - row.correct) > 1e-9 or abs(other.accuracy * m - other.correct) > 1e-9:
        return None
    return other.correct * k - row.correct * m
