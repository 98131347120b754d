r"""A rule for prompts that ask for a box: the last ``\boxed{...}`` equals the ground truth after normalisation."""

from __future__ import annotations

from typing import Any

from reward_fns.extraction import last_boxed
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
    """Return ``score``, ``acc`` (bool) and ``pred``: the normalised answer, None without a closed box."""
    return judge(last_boxed(solution_str), str(ground_truth), correct_score, wrong_score)
