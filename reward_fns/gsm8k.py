"""The rule of GSM8K: the number of the last ``Answer:`` or ``####`` line equals the ground truth's exactly."""

from __future__ import annotations

from typing import Any

from reward_fns.exact_answer import judge_number
from reward_fns.extraction import last_answer_or_hash_line


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return the verdict of `exact_answer`. A ground truth may be a whole solution that ends in ``#### 72``."""
    truth = str(ground_truth).rpartition("####")[2].strip()
    return judge_number(last_answer_or_hash_line(solution_str), truth, correct_score, wrong_score)
