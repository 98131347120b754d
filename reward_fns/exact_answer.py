"""The rule for word problems: the number on the last ``Answer:`` line equals the ground truth exactly."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from reward_fns.extraction import last_answer_line
from reward_fns.normalisation import NUMBER_WORDS, UNIT_WORDS, normalise, same_answer, unwrap

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_QUANTITY = re.compile(rf"([+-]?)\s*({_DECIMAL})(?:\s*/\s*({_DECIMAL}))?(.*)", re.DOTALL)
_CURRENCY = re.compile("[$€£¥₹¢]")
_PERCENT_OR_DEGREES = re.compile(r"\s*(?:\\?%|°|\^\s*\{?\s*\\circ\s*\}?)$")
# A unit is plain words, which may have a power: "apples", "km/h", "cm^2". A letter alone is mostly a variable.
_LETTER = "[A-Za-zÀ-ÖØ-öø-ÿ]"
_WORD = rf"(?:{_LETTER}(?:{_LETTER}|['’])+|[aghlmsL](?!{_LETTER}))(?:\(e?s\))?(?:\^\{{?[23]\}}?|[²³])?\.?"
_WORDS = re.compile(rf"{_WORD}(?:(?:\s*/\s*|-|\s+){_WORD})*")
_ATTACHED_UNIT = re.compile(rf"(?:{UNIT_WORDS})(?!{_LETTER})")  # 5cm is a length, but 5xy a product
_NOT_A_UNIT = re.compile(
    rf"\b(?:{NUMBER_WORDS}|plus|minus|or|divided|multiplied|mod|modulo|squared|cubed|factorial|pi|and\s+an?)\b",
    re.IGNORECASE,
)
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
    """Return ``score``, ``acc`` (bool) and ``pred``: the number in lowest terms, or the text if it is none."""
    return judge_number(last_answer_line(solution_str), str(ground_truth), correct_score, wrong_score)


def judge_number(answer: str | None, truth: str, correct_score: float, wrong_score: float) -> dict[str, Any]:
    """The verdict on an answer, None being none; a truth that is no number ("yes") is compared as normalised text."""
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

    Reads ``1,234``, ``12.50``, ``$ 7``, ``3/4``, ``-2``, ``x = 5`` and ``7 apples``, but not ``7x`` or ``7 hundred``.
    """
    plain = _FRACTION.sub(r" \1/\2", unwrap(text))  # the space keeps 2\frac{1}{2} from reading 21/2
    match = _QUANTITY.fullmatch(_PERCENT_OR_DEGREES.sub("", _CURRENCY.sub(" ", plain).strip()))
    if match is None or not _is_unit(match[4]):
        return None
    sign, numerator, denominator = match.group(1, 2, 3)
    divisor = Fraction((denominator or "1").replace(",", ""))
    if divisor == 0:
        return None
    value = Fraction(numerator.replace(",", "")) / divisor
    return -value if sign == "-" else value


def _is_unit(text: str) -> bool:
    """Whether nothing or only a unit follows a number."""
    words = text.strip()
    if not words:
        return True
    separate = text[0].isspace() or _ATTACHED_UNIT.match(text)
    return bool(separate and _WORDS.fullmatch(words) and not _NOT_A_UNIT.search(words))
