"""DAPO's rule (arXiv 2503.14476): the last ``Answer:`` line equals the ground truth after normalisation."""

from __future__ import annotations

from typing import Any

from reward_fns.extraction import last_answer_line
from reward_fns.normalisation import judge


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return ``score``, ``acc`` (bool) and ``pred``: the normalised answer, None without an answer."""
    return judge(last_answer_line(solution_str), str(ground_truth), correct_score, wrong_score)
