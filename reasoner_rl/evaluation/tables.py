"""From the results of problems to the report of a set, with its table by problem."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from reasoner_rl.evaluation.estimators import EvaluationReport, ProblemResult
from reasoner_rl.evaluation.result import LengthRecord, ProblemRecord, SetReport


def report_of_set(
    report: EvaluationReport,
    results: Sequence[ProblemResult],
    identities: Sequence[ProblemRecord],
    *,
    lengths_known: bool = True,
) -> SetReport:
    """The report of a set for the result file.

    identities: one record per problem, without results; see `identity`. lengths_known: whether
    response_tokens and truncated were counted.
    """
    return SetReport(
        dataset=report.dataset,
        problems=report.problems,
        samples_per_problem=report.samples_per_problem,
        accuracy=report.accuracy,
        ci_low=report.ci_low,
        ci_high=report.ci_high,
        pass_at=report.pass_at,
        pass_at_k=report.pass_at_k,
        majority_at_k=report.majority_at_k,
        truncated_share=report.truncated_share if lengths_known else None,
        unanswered_share=report.unanswered_share,
        mean_response_tokens=report.mean_response_tokens if lengths_known else None,
        mean_score=report.mean_score,
        lengths=_lengths(results) if lengths_known else {},
        table=[
            _row(identity, result, lengths_known)
            for identity, result in zip(identities, results, strict=True)
        ],
    )


def identity(
    uid: str, problem_sha256: str, ground_truth: str, prompt_sha256: str | None = None
) -> ProblemRecord:
    """The record of a problem without results."""
    return ProblemRecord(
        uid=uid,
        problem_sha256=problem_sha256,
        prompt_sha256=prompt_sha256,
        ground_truth=ground_truth,
        correct=None,
        accuracy=None,
        majority_answer=None,
        truncated=None,
        unanswered=0,
    )


def _row(identity: ProblemRecord, result: ProblemResult, lengths_known: bool) -> ProblemRecord:
    known = [accuracy for accuracy in result.accuracies if accuracy is not None]
    answers = [answer for answer in result.answers if answer is not None]
    return identity.model_copy(
        update={
            "correct": _correct(result),
            "accuracy": fmean(known) if len(known) == len(result.accuracies) else None,
            # max returns the first of equals, as `majority_at_k` counts.
            "majority_answer": max(answers, key=answers.count) if answers else None,
            "truncated": sum(result.truncated) if lengths_known else None,
            "unanswered": len(result.answers) - len(answers),
        }
    )


def _correct(result: ProblemResult) -> int | None:
    if any(accuracy is None for accuracy in result.accuracies):
        return None
    return sum(accuracy is not None and accuracy >= 1 for accuracy in result.accuracies)


def _lengths(results: Sequence[ProblemResult]) -> dict[str, LengthRecord]:
    """Lengths of right, wrong and truncated responses; those whose accuracy is not known are left out."""
    tokens: dict[str, list[int]] = {"right": [], "wrong": [], "truncated": []}
    for result in results:
        each = zip(result.accuracies, result.truncated, result.response_tokens, strict=True)
        for accuracy, cut, length in each:
            if accuracy is not None:
                kind = "right" if accuracy >= 1 else "truncated" if cut else "wrong"
                tokens[kind].append(length)
    return {
        kind: LengthRecord(responses=len(lengths), mean_tokens=fmean(lengths) if lengths else None)
        for kind, lengths in tokens.items()
    }
