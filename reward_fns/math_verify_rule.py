r"""Hugging Face's math-verify as a verifier: ``reasoner-rl verify FILE --fn math-verify``, or ``--against``.

Reads the response as math-verify's documentation shows (LaTeX and plain expressions, the last ``\boxed{}`` first) and
compares with the ground truth as LaTeX. Needs the extra ``verifiers``. Its own deadlines, which need signals, are
off: who calls this keeps one.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = -1.0,
) -> dict[str, Any]:
    """Return ``score``, ``acc`` (bool), ``pred`` and ``status``: "correct", "wrong" or "unparsed".

    It is "crash" for a ground truth that math-verify cannot read. Raises ImportError naming the extra without it.
    """
    math_verify = _library()
    gold = _gold(str(ground_truth))
    answer = list(_said(solution_str))
    if not gold or not answer:
        status = "unparsed" if gold else "crash"
        return {"score": wrong_score, "acc": False, "pred": None, "status": status}
    correct = bool(math_verify.verify(list(gold), answer, timeout_seconds=None))
    return {
        "score": correct_score if correct else wrong_score,
        "acc": correct,
        "pred": str(answer[-1]),
        "status": "correct" if correct else "wrong",
    }


@lru_cache(maxsize=4096)
def _gold(ground_truth: str) -> tuple[Any, ...]:
    return tuple(_library().parse(f"\\boxed{{{ground_truth}}}", parsing_timeout=None))


@lru_cache(maxsize=1)  # maj@k judges one response with several ground truths, one by one
def _said(response: str) -> tuple[Any, ...]:
    return tuple(_library().parse(response, parsing_timeout=None))


def _library() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise ImportError(
            "this verifier needs the package 'math-verify', which is not installed: "
            "pip install 'reasoner_rl[verifiers]'"
        ) from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its deadlines are off
    return math_verify
