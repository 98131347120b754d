"""Which rule judges which data source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from reward_fns import countdown, math_answer, math_dapo_strict, math_verify_rule
from reward_fns.math_dapo_strict import ANSWER_WINDOW


@dataclass(frozen=True, slots=True)
class Rule:
    """How the responses to some problems are judged. `reward_fns.forms` finds out which forms of an answer count."""

    about: str  # on one line, for people
    judge: Callable[..., dict[str, Any]]  # with verl's signature
    truth_of_5: str = "5"  # a ground truth for which 5 is right


_BY_VALUE = "mathematical answers, compared by value"
_PERCENT_SIGN = "50 is right for 50%"
_LAST_LINE = (
    f"DAPO's rule: the last `Answer: ...` line in the last {ANSWER_WINDOW} characters is the same text"
)

GENERAL = Rule(_BY_VALUE, math_answer.compute_score)
# Published truths of MATH have a percent sign where the question asks for "what percent", and are graded without it.
PERCENT = Rule(f"{_BY_VALUE}; {_PERCENT_SIGN}", partial(math_answer.compute_score, bare_percent=True))
WORD_PROBLEM = Rule(
    f"answers to word problems, compared by value; {_PERCENT_SIGN}",
    partial(math_answer.compute_score, extraction="hash_or_answer", bare_percent=True),
)
STRICT = Rule(_LAST_LINE, math_dapo_strict.compute_score)
STRICT_OR_BOXED = Rule(
    f"{_LAST_LINE}, or without such a line the last box is",
    partial(math_dapo_strict.compute_score, boxed_fallback=True),
)
COUNTDOWN = Rule(
    "an expression that has the target's value and each number once",
    countdown.compute_score,
    '{"numbers": [5], "target": 5}',
)
MATH_VERIFY = Rule("Hugging Face's math-verify, compared by value", math_verify_rule.compute_score)

# Patterns for a part of the data source's path, in lower case; the first that fits decides.
RULES: tuple[tuple[str, Rule], ...] = (
    ("math_dapo_strict", STRICT),
    ("math_dapo_strict_or_boxed", STRICT_OR_BOXED),
    ("math_dapo*", GENERAL),
    ("dapo*", GENERAL),
    ("aime*", GENERAL),
    ("math*", PERCENT),
    ("deepmath*", GENERAL),
    ("amc*", GENERAL),
    ("gsm8k*", WORD_PROBLEM),
    ("mawps*", WORD_PROBLEM),
    ("svamp*", WORD_PROBLEM),
    ("asdiv*", WORD_PROBLEM),
    ("arithmetic*", GENERAL),
    ("countdown*", COUNTDOWN),
)


def own_rule(data_source: str) -> Rule | None:
    """Return the rule that `RULES` has for ``data_source``; the last part of its path that has a rule counts.

    So ``openai/gsm8k``, ``gsm8k/main`` and ``gsm8k`` are the same.
    """
    for part in reversed(data_source.lower().split("/")):
        for pattern, rule in RULES:
            if fnmatchcase(part, pattern):
                return rule
    return None


def rule_for(data_source: str) -> Rule:
    """Return the rule by which ``data_source`` is judged: its own, or `GENERAL` if it has none."""
    return own_rule(data_source) or GENERAL


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
    ``long_decimals`` (see `verify_math`) is for the rules of mathematical answers alone; others have no such option.
    Returns ``score``, ``acc`` (bool), ``pred`` (the answer found, or None) and ``status``.
    """
    judge = rule_for(data_source).judge
    if long_decimals and getattr(judge, "func", judge) is math_answer.compute_score:
        parameters["long_decimals"] = True
    return judge(data_source, solution_str, ground_truth, extra_info, **parameters)
