"""A reward that a model with random weights earns for half of its responses. Verifier processes import this file."""

from __future__ import annotations

from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> dict[str, float]:
    """1 where the sum of the response's characters is odd, else -1."""
    odd = sum(map(ord, solution_str)) % 2
    return {"score": 2.0 * odd - 1.0, "acc": float(odd)}
