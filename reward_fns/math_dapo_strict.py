r"""DAPO's rule as published (arXiv 2503.14476): the last ``Answer:`` line is the same text after Minerva's rewriting.

For reproducing published runs. It refuses many right answers (``42.0`` for ``42``) and rewrites some wrong ones into
right ones; `math_answer` is the better teacher. Normalisation: arXiv 2206.14858, appendix D.1.
"""

from __future__ import annotations

import re
from typing import Any

ANSWER_WINDOW = 300  # characters: the reference reads no further back
_ANSWER = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_BOX_WINDOW = 100
_NO_ANSWER = "[INVALID]"
_REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
_REMOVED = (
    *(
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "hours",
        "km",
        "units",
        "\\ldots",
        "sue",
        "points",
    ),
    *(
        "feet",
        "minutes",
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
        "edges",
        "students",
    ),
    *("childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3"),
    *("\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
_REWRITTEN = (
    (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
    (r"(\\text\{)(.*?)(\})", r"\2"),
    (r"(\\textbf\{)(.*?)(\})", r"\2"),
    (r"(\\overline\{)(.*?)(\})", r"\2"),
    (r"(\\boxed\{)(.*)(\})", r"\2"),
    (r"(frac)([^{])(.)", r"frac{\2}{\3}"),
    (r"(sqrt)([^{])", r"sqrt{\2}"),
)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    boxed_fallback: bool = False,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    r"""Return ``score``, ``acc`` and ``pred``.

    boxed_fallback: without an ``Answer:`` line read a ``\boxed{}`` in the last 100 characters, as newer verl does.
    """
    end = solution_str[-ANSWER_WINDOW:]
    lines = _ANSWER.findall(end)
    prediction = normalise(lines[-1] if lines else _NO_ANSWER)
    correct = prediction == normalise(str(ground_truth))
    if boxed_fallback and prediction == _NO_ANSWER and (boxed := _boxed(end[-_BOX_WINDOW:])) is not None:
        prediction, correct = boxed, boxed == str(ground_truth)
    return {"score": correct_score if correct else wrong_score, "acc": correct, "pred": prediction}


def normalise(answer: str) -> str:
    """Minerva's normal form of an answer."""
    text = answer.split("=")[-1]
    for old, new in (*_REPLACED, *((expression, "") for expression in _REMOVED)):
        text = text.replace(old, new)
    for pattern, replacement in _REWRITTEN:
        text = re.sub(pattern, replacement, text)
    text = text.replace("$", "")
    if text.replace(",", "").isdigit():
        text = text.replace(",", "")
    return text.strip()


def _boxed(text: str) -> str | None:
    """The content of the last box, if it is closed."""
    start = text.rfind("\\boxed{")
    depth = 0
    for place in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            return text[start + len("\\boxed{") : place]
    return None
