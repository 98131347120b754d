"""Results of evaluations as columns and rows of printed tables."""

from __future__ import annotations

from reasoner_rl.evaluation.difference import ProblemChange, SetDifference
from reasoner_rl.evaluation.result import EvaluationResult, SetReport

Table = tuple[list[str], list[list[str]]]
_LONGEST_ANSWER = 40  # characters


def result_tables(result: EvaluationResult, *, problems: bool = False) -> list[Table]:
    """The tables of a result. problems: with a table of all problems per set."""
    tables = [report_table(result)]
    if any(report.lengths for report in result.reports):
        tables.append(length_table(result))
    return tables + [problem_table(report) for report in result.reports if problems]


def report_table(result: EvaluationResult) -> Table:
    """One row per set: accuracy with its interval, pass@k, maj@k, lengths."""
    rows = [_row(report, result.settings.greedy) for report in result.reports]
    return list(rows[0]), [list(row.values()) for row in rows]


def length_table(result: EvaluationResult) -> Table:
    """One row per set and kind of response: how many, and how long."""
    return ["dataset", "responses that are", "count", "mean tokens"], [
        [
            report.dataset,
            {"truncated": "cut off, not right"}.get(kind, kind),
            f"{lengths.responses:,}",
            "" if lengths.mean_tokens is None else f"{lengths.mean_tokens:.0f}",
        ]
        for report in result.reports
        for kind, lengths in report.lengths.items()
    ]


def problem_table(report: SetReport) -> Table:
    """One row per problem of a set."""
    return ["problem", "correct", "of", "majority answer", "ground truth", "truncated", "unanswered"], [
        [
            row.uid,
            _count(row.correct),
            str(report.samples_per_problem),
            _short(row.majority_answer),
            _short(row.ground_truth),
            _count(row.truncated),
            str(row.unanswered),
        ]
        for row in report.table
    ]


def difference_table(differences: list[SetDifference]) -> Table:
    """One row per set: both accuracies, the paired difference with its interval and p-value, and a verdict."""
    columns = ["dataset", "problems", "A", "B", "B - A", "95 % interval", "p (sign flips)", "verdict"]
    return columns, [
        [
            found.dataset,
            str(found.problems),
            f"{found.accuracy_before:.3f}",
            f"{found.accuracy_after:.3f}",
            f"{found.difference.mean:+.3f}",
            " to ".join(f"{end:+.3f}" for end in found.interval),
            "unknown" if found.p_value is None else f"{found.p_value:.3g}",
            _verdict(found),
        ]
        for found in differences
    ]


def change_table(changes: tuple[ProblemChange, ...]) -> Table:
    """One row per problem whose accuracy changed."""
    return ["problem", "A", "B", "B - A", "majority answer of A", "of B"], [
        [
            change.uid,
            f"{change.before:.3f}",
            f"{change.after:.3f}",
            f"{change.after - change.before:+.3f}",
            _short(change.answer_before),
            _short(change.answer_after),
        ]
        for change in changes
    ]


def _verdict(found: SetDifference) -> str:
    if not found.changes:
        return "no problem changed"
    if found.could_be_noise:
        low, high = found.interval
        return f"could be noise: {'the interval holds 0' if low <= 0 <= high else 'p is not below 0.05'}"
    return "B is better" if found.difference.mean > 0 else "B is worse"


def _row(report: SetReport, greedy: bool) -> dict[str, str]:
    k = report.samples_per_problem
    cells = {
        "dataset": report.dataset,
        "problems": str(report.problems),
        "samples": "1 (greedy)" if greedy else str(k),
        "accuracy" if k == 1 else f"avg@{k}": _share(report.accuracy),
        "95 % interval": "unknown"
        if report.ci_low is None
        else f"{_share(report.ci_low)} to {_share(report.ci_high)}",
    }
    if k > 1:
        cells |= {f"pass@{j}": _share(share) for j, share in (report.pass_at or {}).items() if j > 1}
        cells[f"maj@{k}"] = _share(report.majority_at_k)
    if report.accuracy is None:
        cells["mean score"] = "unknown" if report.mean_score is None else f"{report.mean_score:.3f}"
    cells["tokens"] = (
        "unknown" if report.mean_response_tokens is None else f"{report.mean_response_tokens:.0f}"
    )
    cells["truncated"] = "unknown" if report.truncated_share is None else f"{report.truncated_share:.1%}"
    cells["unanswered"] = f"{report.unanswered_share:.1%}"
    return cells


def _share(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3f}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _short(answer: str | None) -> str:
    text = "" if answer is None else " ".join(answer.split())
    return text if len(text) <= _LONGEST_ANSWER else f"{text[: _LONGEST_ANSWER - 3]}..."
