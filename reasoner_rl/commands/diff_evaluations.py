"""`reasoner-rl eval diff`: which settings of two results differ, and the paired differences in accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.evaluation.difference import SetDifference, set_difference
from reasoner_rl.evaluation.result import EvaluationResult, SetReport, differences, read_result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results, A and B, side by side."""

    settings: list[tuple[str, str, str]]  # key, value in A, value in B, of those that differ
    remarks: list[str]  # what makes a comparison impossible, or limits it
    sets: list[SetDifference]


def compare(first: Path, second: Path) -> Comparison:
    """Read two results and compare them. Raises DataError if one cannot be read."""
    a, b = read_result(first), read_result(second)
    settings = differences(a.settings, b.settings)
    remarks = [] if settings else ["no setting differs: these are two runs of the same evaluation"]
    sets = []
    for before, after in _pairs(a, b, remarks):
        found = set_difference(before, after)
        if found is None:
            remarks.append(
                f"{before.dataset}: not comparable: the two have no problem in common, or the accuracy on one of these "
                "is not known"
            )
            continue
        remarks += _of_problems(found)
        if before.samples_per_problem != after.samples_per_problem:
            remarks.append(
                f"{before.dataset}: {before.samples_per_problem} samples per problem in A and "
                f"{after.samples_per_problem} in B: the means are comparable, pass@k and maj@k are not"
            )
        sets.append(found)
    return Comparison(settings, remarks, sets)


def _pairs(a: EvaluationResult, b: EvaluationResult, remarks: list[str]) -> list[tuple[SetReport, SetReport]]:
    """The sets that both have, by name; two that are alone need no common name."""
    if len(a.reports) == len(b.reports) == 1:
        if a.reports[0].dataset != b.reports[0].dataset:
            remarks.append(
                f"the sets have different names: {a.reports[0].dataset} and {b.reports[0].dataset}"
            )
        return [(a.reports[0], b.reports[0])]
    of_a, of_b = ({report.dataset for report in result.reports} for result in (a, b))
    for letter, alone in (("A", of_a - of_b), ("B", of_b - of_a)):
        if alone:
            remarks.append(f"only in {letter}: {', '.join(sorted(alone))}")
    return [(report, b.report(report.dataset)) for report in a.reports if report.dataset in of_b]


def _of_problems(found: SetDifference) -> list[str]:
    remarks = []
    if not found.same_problems:
        remarks.append(
            f"{found.dataset}: not the same problems: {found.only_before} in A alone, {found.only_after} in B alone; "
            f"what follows is over the {found.problems} that both have, and not the accuracies of the reports"
        )
    if found.other_truths:
        remarks.append(f"{found.dataset}: {found.other_truths} problems have other ground truths")
    return remarks
