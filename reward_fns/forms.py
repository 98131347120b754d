"""Which forms of an answer a rule counts, found by judging an example of each form with the rule itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from reward_fns.registry import (
    COUNTDOWN,
    GENERAL,
    MATH_VERIFY,
    STRICT,
    Rule,
    compute_score,
    own_rule,
    rule_for,
)

_BEFORE = "Both numbers were added.\n"
# What people call a form -> a response that states the answer 5 in it. The first are named when a run starts.
FORMS: dict[str, str] = {
    "`Answer: 5`": f"{_BEFORE}Answer: 5",
    r"`\boxed{5}`": rf"{_BEFORE}So it is \boxed{{5}}.",
    "`<answer>5</answer>`": f"{_BEFORE}<answer>5</answer>",
    "`#### 5`": f"{_BEFORE}#### 5",
    "`The answer is 5.`": f"{_BEFORE}The answer is 5.",
    "`The answer is 5.` and no other line": "The answer is 5.",
    "`The final answer is 5. I hope it is correct.`": f"{_BEFORE}The final answer is 5. I hope it is correct.",
    "a last line with `5` alone": f"{_BEFORE}5",
}
_MOST_FORMS = 5  # named when a run starts
_MOST_SOURCES = 6  # named on one line

# Functions that judge by the rule of the data source. The parameters of the first two are the rule's.
_THE_RULE = ("reward_fns:compute_score", "reward_fns.registry:compute_score")
_BY_SOURCE = (*_THE_RULE, "reward_fns.composite:compute_score", "reward_fns.length_penalty:cosine")
_ALONE = {
    f"{rule.judge.__module__}:{rule.judge.__name__}": rule
    for rule in (GENERAL, STRICT, COUNTDOWN, MATH_VERIFY)
}


def forms_that_count(score: Callable[[str, str], dict[str, Any]], truth_of_5: str = "5") -> dict[str, bool]:
    """Form -> whether it counts. score: a verifier's result for a response and a ground truth, with ``acc``."""
    return {form: bool(score(response, truth_of_5)["acc"]) for form, response in FORMS.items()}


def rules_in_force(fn: str, parameters: Mapping[str, Any], data_sources: Iterable[str]) -> list[str]:
    """Say by which rule the function named ``fn``, package.module:function, judges: a line, and one for each rule.

    Of other functions than those of reward_fns only the name is printed.
    """
    if fn in _ALONE:
        rule = _ALONE[fn]
        return [
            f"verifier: {fn}",
            f"  every data source -> {_described(rule, partial(rule.judge, '', **parameters))}",
        ]
    if fn not in _BY_SOURCE:
        return [f"verifier: {fn}, which decides by itself what counts"]
    given = parameters if fn in _THE_RULE else {}
    judged: dict[tuple[Rule, bool], list[str]] = {}
    for source in dict.fromkeys(data_sources):
        judged.setdefault((rule_for(source), own_rule(source) is None), []).append(source)
    lines = [f"verifier: {fn}"]
    for (rule, general), sources in judged.items():
        described = _described(rule, partial(compute_score, sources[0], **given))
        lines.append(f"  {_named(sources)}{' (no rule of its own)' if general else ''} -> {described}")
    return lines


def _named(sources: Sequence[str]) -> str:
    listed = ", ".join(repr(source) if source else "none" for source in sources[:_MOST_SOURCES])
    more = f" and {len(sources) - _MOST_SOURCES} more" if len(sources) > _MOST_SOURCES else ""
    return f"data source{'s' if len(sources) > 1 else ''} {listed}{more}"


def _described(rule: Rule, score: Callable[[str, str], dict[str, Any]]) -> str:
    """What a rule is about, and which forms count with the given parameters, unless they do not fit it."""
    try:
        counts = forms_that_count(score, rule.truth_of_5)
    except (TypeError, ValueError, ImportError):  # judging responses raises the same error
        return rule.about
    named = list(counts.items())[:_MOST_FORMS]
    right = ", ".join(form for form, counted in named if counted) or "none of the common forms"
    wrong = ", ".join(form for form, counted in named if not counted)
    return f"{rule.about}; counts {right}" + (f"; not {wrong}" if wrong else "")
