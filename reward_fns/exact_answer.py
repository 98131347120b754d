"""The rule for word problems: the number on the last ``Answer:`` line equals the ground truth exactly."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from reward_fns.extraction import last_answer_line
from reward_fns.normalisation import normalise, same_answer, unwrap

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
# What follows the number is a unit: words or signs without digits or operators, but for powers as in cm^2.
_UNIT = r"(?!\s*[-/])(?:[^0-9+*=<>^]|\^\{?[23]\}?)*"
_QUANTITY = re.compile(rf"([+-]?)\s*({_DECIMAL})(?:\s*/\s*({_DECIMAL}))?{_UNIT}")
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return ``score``, ``acc`` (bool) and ``pred``: the number in lowest terms, or the text if it is none.

    A ground truth that is no number ("yes") is compared as normalised text.
    """
    answer, truth = last_answer_line(solution_str), str(ground_truth)
    if answer is None:
        return {"score": wrong_score, "acc": False, "pred": None}
    number, true_number = parse_number(answer), parse_number(truth)
    correct = same_answer(answer, truth) if true_number is None else number == true_number
    return {
        "score": correct_score if correct else wrong_score,
        "acc": correct,
        "pred": normalise(answer) if number is None else str(number),
    }


def parse_number(text: str) -> Fraction | None:
    """Return the one number that ``text`` states, exactly; None if it states none or several.

    Reads ``1,234``, ``12.50``, ``$ 7``, ``3/4``, ``-2``, ``x = 5`` and ``7 apples``.
    """
    plain = _FRACTION.sub(r" \1/\2", unwrap(text))  # the space keeps 2\frac{1}{2} from reading 21/2
    match = _QUANTITY.fullmatch(re.sub("[$€£]", "", plain).strip())
    if match is None:
        return None
    sign, numerator, denominator = match.groups(default="1")
    divisor = Fraction(denominator.replace(",", ""))
    if divisor == 0:
        return None
    value = Fraction(numerator.replace(",", "")) / divisor
    return -value if sign == "-" else value
