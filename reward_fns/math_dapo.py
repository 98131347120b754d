"""DAPO's rule (arXiv 2503.14476): the last ``Answer:`` line equals the ground truth after normalisation."""

from __future__ import annotations

from typing import Any

from reward_fns.extraction import last_answer_line
from reward_fns.normalisation import normalise, same_answer


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
    answer = last_answer_line(solution_str)
    correct = answer is not None and same_answer(answer, str(ground_truth))
    return {
        "score": correct_score if correct else wrong_score,
        "acc": correct,
        "pred": None if answer is None else normalise(answer),
    }
