"""Which rule judges which data source."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from reward_fns import countdown, math_answer, math_dapo_strict

Rule = Callable[..., dict[str, Any]]

_ANSWER = math_answer.compute_score
# Published truths of MATH have a percent sign where the question asks for "what percent", and are graded without it.
_PERCENT = partial(math_answer.compute_score, bare_percent=True)
_WORD_PROBLEM = partial(math_answer.compute_score, extraction="hash_or_answer", bare_percent=True)

# Patterns for a part of the data source's path, in lower case; the first that fits decides.
RULES: tuple[tuple[str, Rule], ...] = (
    ("math_dapo_strict", math_dapo_strict.compute_score),
    ("math_dapo_strict_or_boxed", partial(math_dapo_strict.compute_score, boxed_fallback=True)),
    ("math_dapo*", _ANSWER),
    ("dapo*", _ANSWER),
    ("aime*", _ANSWER),
    ("math*", _PERCENT),
    ("deepmath*", _ANSWER),
    ("amc*", _ANSWER),
    ("gsm8k*", _WORD_PROBLEM),
    ("mawps*", _WORD_PROBLEM),
    ("svamp*", _WORD_PROBLEM),
    ("asdiv*", _WORD_PROBLEM),
    ("arithmetic*", _ANSWER),
    ("countdown*", countdown.compute_score),
)


def rule_for(data_source: str) -> Rule:
    """Return the rule for ``data_source``; the last part of its path that has a rule counts.

    So ``openai/gsm8k``, ``gsm8k/main`` and ``gsm8k`` are the same. Without a rule it is `math_answer`.
    """
    for part in reversed(data_source.lower().split("/")):
        for pattern, rule in RULES:
            if fnmatchcase(part, pattern):
                return rule
    return _ANSWER


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    long_decimals: bool = False,
    **parameters: Any,
) -> dict[str, Any]:
    """Judge a response by the rule of its data source; verl's signature.

    ``parameters``: ``correct_score`` (1.0), ``wrong_score`` (-1.0), and what the rule takes besides.
    ``long_decimals`` (see `verify_math`) is for the rule of mathematical answers alone; others have no such option.
    Returns ``score``, ``acc`` (bool), ``pred`` (the answer found, or None) and ``status``.
    """
    rule = rule_for(data_source)
    if long_decimals and getattr(rule, "func", rule) is _ANSWER:
        parameters["long_decimals"] = True
    return rule(data_source, solution_str, ground_truth, extra_info, **parameters)
