"""Whether the final answer of a response is the ground truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from reward_fns.answers import ALGEBRA_SECONDS, Rules, canonical, compare, is_text, parts_of
from reward_fns.extraction import EXTRACTIONS, Extraction, boxes_of_clauses, last_boxed, locate_answer

Status = Literal["correct", "wrong", "unparsed", "undecided", "timeout", "crash"]


@dataclass(frozen=True, slots=True)
class RewardResult:
    """The verdict on one response."""

    correct: bool
    score: float
    # unparsed: no answer was found, or none that can be read; undecided: whether it is right could not be decided, and
    # scores like a wrong one; timeout: for runners with a deadline
    status: Status
    extracted: str | None  # the answer in its normal form
    seconds: float
    found_by: str | None = None  # what the answer was found by: see `reward_fns.extraction.Found`
    reason: str = ""  # why it is undecided


def verify_math(
    solution: str,
    ground_truth: str,
    *,
    extraction: Extraction = "whole",
    opened: str = "",
    bare_percent: bool = False,
    relative_tolerance: float = 1e-4,
    long_decimals: bool = False,
    algebra_seconds: float = ALGEBRA_SECONDS,
    correct_score: float = 1.0,
    wrong_score: float = 0.0,
) -> RewardResult:
    """Judge a response. No text makes it raise, none is run, and it takes bounded time.

    extraction: where the answer stands, and opened: the tag with which the prompt ends; see `locate_answer`.
    bare_percent: ``50`` is right for ``50%``.
    relative_tolerance: for a ground truth that is a decimal, and an answer that has its digits as far as both have any.
    long_decimals: a decimal of six significant digits or more is right for a fraction that it is, rounded or cut off.
    algebra_seconds: most CPU time to compute what sums, integrals, limits and derivatives of the truth come to. They
    are undecided with 0, without sympy, and outside of the process's main thread, which keeps the deadline.
    Raises ValueError for an unknown extraction.
    """
    if extraction not in EXTRACTIONS:
        raise ValueError(f"extraction={extraction!r} must be one of {', '.join(EXTRACTIONS)}")
    begun = time.perf_counter()

    found = None

    def result(status: Status, extracted: str | None = None, reason: str = "") -> RewardResult:
        correct = status == "correct"
        score = correct_score if correct else wrong_score
        seconds = time.perf_counter() - begun
        return RewardResult(correct, score, status, extracted, seconds, found and found.by, reason)

    try:
        found = locate_answer(solution, extraction, opened=opened)
        if found is None or not found.text:
            return result("unparsed")
        answer = found.text
        truth = _bare(ground_truth)
        rules = Rules(Fraction(relative_tolerance), bare_percent, long_decimals, algebra_seconds)
        verdict = compare(answer, truth, rules)
        if verdict.same:
            return result("correct", canonical(answer))
        if (
            found.by in ("boxed", "answer_tag")
            and solution.count("box") > 1
            and (parts := parts_of(truth)).number > 1
        ):
            clauses = boxes_of_clauses(solution, opened=opened, ordered=parts.ordered)
            together = f"({', '.join(clauses)})" if parts.ordered else ", ".join(clauses)
            if len(clauses) == parts.number and compare(together, truth, rules).same:
                return result("correct", canonical(together))
        if verdict.undecided:
            return result("undecided", canonical(answer), verdict.undecided)
        return result("unparsed" if is_text(answer) and not is_text(truth) else "wrong", canonical(answer))
    except Exception:
        return result("crash")


def _bare(ground_truth: str) -> str:
    r"""The ground truth without what data sets put around it: a solution before ``####``, or a box."""
    truth = str(ground_truth).rpartition("####")[2].strip()
    return last_boxed(truth) or truth
