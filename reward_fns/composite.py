"""Correctness, quality of the steps and brevity in one score, each part logged by its name.

score = 1.0 x correctness + 0.5 x step quality - 0.3 x length penalty

Correctness is 1 or 0, by the rule of the data source; step quality is what `reward_fns.step_quality` makes of your
scorer, best between 0 and 1; the length penalty is the linear one of `reward_fns.length_penalty`, between 0 and 1. With
these weights a right answer is worth more than a wrong one, however well that is argued and however short it is.

    reward:
      functions:
        - fn: reward_fns.composite:compute_score
          name: composite
          parameters: {step_scorer: my_package.steps:score, max_length: 4096, wrong_score: 0.0}
"""

from __future__ import annotations

from typing import Any

from reward_fns.length_penalty import linear_penalty, response_length
from reward_fns.registry import compute_score as verdict
from reward_fns.step_quality import step_quality


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    correctness_weight: float = 1.0,
    step_weight: float = 0.5,
    length_weight: float = 0.3,
    step_scorer: str | None = None,
    separator: str = "\n\n",
    aggregate: str = "mean",
    max_length: int | None = None,
    start: int = 0,
    unit: str = "tokens",
    wrong_score: float = 0.0,
) -> dict[str, Any]:
    """Return ``score``, the verdict's ``acc``, ``pred`` and ``status``, and the parts before weighting.

    A part whose weight is 0 is left out, and needs no ``step_scorer`` or ``max_length``. ``wrong_score`` is only what
    the trainer counts for an answer on which this function fails. Raises ValueError naming the parameter that lacks.
    """
    judged = verdict(data_source, solution_str, ground_truth, extra_info)
    parts = {"correctness": float(judged["acc"])}
    score = correctness_weight * parts["correctness"]
    if step_weight:
        if step_scorer is None:
            raise ValueError("composite needs step_scorer=package.module:function, or step_weight=0")
        parts["step_quality"], _ = step_quality(
            solution_str,
            str(ground_truth),
            extra_info,
            scorer=step_scorer,
            separator=separator,
            aggregate=aggregate,
        )
        score += step_weight * parts["step_quality"]
    if length_weight:
        if max_length is None:
            raise ValueError("composite needs max_length, or length_weight=0")
        length = response_length(solution_str, extra_info, unit)
        parts["length_penalty"] = linear_penalty(length, start, max_length)
        score -= length_weight * parts["length_penalty"]
    return {**judged, "score": score, **parts}
