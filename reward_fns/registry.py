"""Which rule judges which data source."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from reward_fns import answer_or_boxed, exact_answer, gsm8k, math_dapo

Rule = Callable[..., dict[str, Any]]


# Patterns for a part of the data source's path, in lower case; the first that fits decides.
RULES: tuple[tuple[str, Rule], ...] = (
    ("math_dapo*", math_dapo.compute_score),
    ("dapo*", math_dapo.compute_score),
    ("aime*", math_dapo.compute_score),
    ("math*", answer_or_boxed.compute_score),
    ("deepmath*", answer_or_boxed.compute_score),
    ("amc*", answer_or_boxed.compute_score),
    ("gsm8k*", gsm8k.compute_score),
    ("mawps*", exact_answer.compute_score),
    ("svamp*", exact_answer.compute_score),
    ("asdiv*", exact_answer.compute_score),
    ("arithmetic*", exact_answer.compute_score),
)


def rule_for(data_source: str) -> Rule:
    """Return the rule for ``data_source``; the last part of its path that has a rule counts.

    So ``openai/gsm8k``, ``gsm8k/main`` and ``gsm8k`` are the same. Without a rule it is `answer_or_boxed`.
    """
    for part in reversed(data_source.lower().split("/")):
        for pattern, rule in RULES:
            if fnmatchcase(part, pattern):
                return rule
    return answer_or_boxed.compute_score


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
