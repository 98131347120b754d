"""Which rule judges which data source."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from reward_fns import exact_answer, math_boxed, math_dapo

Rule = Callable[..., dict[str, Any]]


def answer_or_boxed(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **parameters: float,
) -> dict[str, Any]:
    r"""Judge the last ``Answer:`` line; without one, the last ``\boxed{...}``."""
    verdict = math_dapo.compute_score(data_source, solution_str, ground_truth, extra_info, **parameters)
    if verdict["pred"] is not None:
        return verdict
    return math_boxed.compute_score(data_source, solution_str, ground_truth, extra_info, **parameters)


# Patterns for the last part of the data source in lower case; the first that fits decides.
RULES: tuple[tuple[str, Rule], ...] = (
    ("math_dapo*", math_dapo.compute_score),
    ("dapo*", math_dapo.compute_score),
    ("aime*", math_dapo.compute_score),
    ("math*", math_boxed.compute_score),
    ("deepmath*", math_boxed.compute_score),
    ("amc*", math_boxed.compute_score),
    ("gsm8k*", exact_answer.compute_score),
    ("mawps*", exact_answer.compute_score),
    ("svamp*", exact_answer.compute_score),
    ("asdiv*", exact_answer.compute_score),
    ("arithmetic*", exact_answer.compute_score),
    ("*", answer_or_boxed),
)


def rule_for(data_source: str) -> Rule:
    """Return the rule for ``data_source``; ``openai/gsm8k`` and ``gsm8k`` are the same."""
    name = data_source.rsplit("/", 1)[-1].lower()
    return next(rule for pattern, rule in RULES if fnmatchcase(name, pattern))


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **parameters: float,
) -> dict[str, Any]:
    """Judge a response by the rule of its data source; verl's signature.

    ``parameters``: ``correct_score`` (1.0) and ``wrong_score`` (-1.0).
    Returns ``score``, ``acc`` (bool) and ``pred`` (the answer found, or None).
    """
    return rule_for(data_source)(data_source, solution_str, ground_truth, extra_info, **parameters)
