"""Rewards that depend on how long a response is, in two forms. L is its length and M the greatest one.

``compute_score``, linear: minus the penalty, 0 up to ``start``, 1 from M on, (L - start) / (M - start) between.

``cosine``, of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, section 4), in place of the verifier's
score: r(L) = r_M + (r_0 - r_M) (1 + cos(pi L / M)) / 2, with one pair (r_0, r_M) for right answers, where shorter is
better, and one for wrong ones, where longer is, so that thinking on pays while the answer is not found; and a
punishment from M on.
"""

from __future__ import annotations

import math
from typing import Any

from reward_fns.registry import compute_score as verdict

UNITS = ("tokens", "words", "characters")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    max_length: int,
    start: int = 0,
    unit: str = "tokens",
) -> dict[str, Any]:
    """Return ``score``, from 0 for short responses down to -1, and ``length``. Raises as `linear_penalty`."""
    length = response_length(solution_str, extra_info, unit)
    return {"score": -linear_penalty(length, start, max_length), "length": length}


def cosine(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    max_length: int,
    right: tuple[float, float] = (2.0, 1.0),
    wrong: tuple[float, float] = (-10.0, 0.0),
    exceeded: float = -10.0,
    unit: str = "tokens",
) -> dict[str, Any]:
    """Judge by the rule of the data source, and return its ``acc``, ``pred`` and ``status`` with a ``score`` by length.

    ``right``, ``wrong``: (r_0, r_M), the scores at length 0 and at ``max_length``; the defaults are the paper's.
    """
    judged = verdict(data_source, solution_str, ground_truth, extra_info)
    length = response_length(solution_str, extra_info, unit)
    if length >= max_length:
        score = exceeded
    else:
        score = cosine_between(*(right if judged["acc"] else wrong), length / max_length)
    return {**judged, "score": score, "length": length}


def response_length(solution_str: str, extra_info: dict[str, Any] | None, unit: str) -> int:
    """The length in ``unit``, one of `UNITS`. Tokens are counted by the trainer, in ``extra_info["response_tokens"]``.

    Raises ValueError for another unit, or for tokens where that key is missing.
    """
    if unit == "characters":
        return len(solution_str)
    if unit == "words":
        return len(solution_str.split())
    if unit != "tokens":
        raise ValueError(f"unit must be one of {', '.join(UNITS)}; it is {unit!r}")
    tokens = (extra_info or {}).get("response_tokens")
    if tokens is None:
        raise ValueError("extra_info holds no 'response_tokens'; choose unit 'words' or 'characters'")
    return int(tokens)


def linear_penalty(length: int, start: int, end: int) -> float:
    """0 up to ``start``, 1 from ``end`` on, linear between. Raises ValueError unless 0 <= start < end."""
    if not 0 <= start < end:
        raise ValueError(f"start must be at least 0 and below max_length={end}; it is {start}")
    return min(max((length - start) / (end - start), 0.0), 1.0)


def cosine_between(first: float, last: float, progress: float) -> float:
    """From ``first`` at progress 0 to ``last`` at 1, along half a period of a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
