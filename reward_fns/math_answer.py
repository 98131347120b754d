"""The rule for mathematical answers, as a reward function: `verify_math` with verl's signature."""

from __future__ import annotations

from typing import Any

from reward_fns.answers import ALGEBRA_SECONDS
from reward_fns.extraction import Extraction, opened_by
from reward_fns.verify import verify_math


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    extraction: Extraction = "answer_or_boxed",
    bare_percent: bool = False,
    relative_tolerance: float = 1e-4,
    long_decimals: bool = False,
    algebra_seconds: float = ALGEBRA_SECONDS,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return ``score``, ``acc`` (bool), ``pred`` (the answer in its normal form, None without one), ``status``,
    ``found_by`` (see `reward_fns.extraction.Found`) and ``reason``, why it is undecided.

    The key ``opened_tag`` of ``extra_info`` is the tag with which the prompt ends, such as ``think``.
    See `verify_math` for the parameters. Raises ValueError for an unknown ``extraction``.
    """
    found = verify_math(
        solution_str,
        str(ground_truth),
        extraction=extraction,
        opened=opened_by(extra_info),
        bare_percent=bare_percent,
        relative_tolerance=relative_tolerance,
        long_decimals=long_decimals,
        algebra_seconds=algebra_seconds,
        correct_score=correct_score,
        wrong_score=wrong_score,
    )
    return {
        "score": found.score,
        "acc": found.correct,
        "pred": found.extracted,
        "status": found.status,
        "found_by": found.found_by,
        "reason": found.reason,
    }
