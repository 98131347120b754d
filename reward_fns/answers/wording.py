"""Answers that are words."""

from __future__ import annotations

import re

from reward_fns.answers.tokens import MAX_CHARACTERS
from reward_fns.answers.values import Listing, Quantity, Symbol, Text, Value
from reward_fns.answers.vocabulary import NO_SOLUTION, TEXT_SYNONYMS

_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S{2})", re.IGNORECASE)
_NOT_COMPUTED = re.compile(r"\\(?:i*int|oint|lim|sum|prod)")


def same_text(answer: Value, truth: Value) -> bool:
    """Words without case and frame. A single letter is a choice: (A), A and \\text{A} are the same."""
    mine, true = _plain(answer), _plain(truth)
    return mine is not None and mine != "" and mine == true


def is_nothing(value: Value) -> bool:
    """The empty set, and "no solution"."""
    if isinstance(value, Text):
        return _plain(value) in NO_SOLUTION
    return isinstance(value, Listing) and value.kind == "set" and not value.items


def _plain(value: Value) -> str | None:
    if isinstance(value, Quantity) and isinstance(value.expression, Symbol) and not value.unit:
        return value.expression.name.casefold()
    if not isinstance(value, Text):
        return None
    if len(value.text) > MAX_CHARACTERS:
        return value.text
    text = value.text.strip(" .,;:!")
    if text.startswith(("(", "[")) and text.endswith((")", "]")) and not any(c in text[1:-1] for c in "()[]"):
        text = text[1:-1]
    text = "".join(_ARTICLE.sub("", text.removesuffix(")") if len(text) == 2 else text).casefold().split())
    if "p.m" in text or "a.m" in text or text.isalpha():
        text = text.replace(".", "")
    return TEXT_SYNONYMS.get(text, text)


def states_analysis(value: Value) -> bool:
    """Whether an integral, sum, product or limit stands in what could not be read."""
    return isinstance(value, Text) and _NOT_COMPUTED.search(value.text) is not None
