"""Final answers as typed values, and whether two of them are the same."""

from __future__ import annotations

from reward_fns.answers.equality import ALGEBRA_SECONDS, Rules, Verdict, compare, same_answer
from reward_fns.answers.reader import canonical, is_text, parts_of, reading

__all__ = [
    "ALGEBRA_SECONDS",
    "Rules",
    "Verdict",
    "canonical",
    "compare",
    "is_text",
    "parts_of",
    "reading",
    "same_answer",
]
