"""What stands side by side in an answer: brackets that belong together, and parts between separators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from reward_fns.answers.tokens import NotReadable, Token

_CLOSED_BY = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), r"\{": (r"\}",), "langle": ("rangle",)}
_CLOSING = frozenset(closing for closings in _CLOSED_BY.values() for closing in closings)
MAX_NESTING = 30

Tokens = Sequence[Token]


def matches(tokens: Tokens) -> dict[int, int]:
    """Where each bracket that opens is closed; ``[0, 1)`` is a pair too. Raises NotReadable where one is not."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if opens(token):
            opened.append(place)
            if len(opened) > MAX_NESTING:
                raise NotReadable("too many brackets within each other")
        elif closes(token):
            if not opened or token.text not in _closings(tokens[opened[-1]]):
                raise NotReadable(f"{token.text!r} closes nothing")
            pairs[opened.pop()] = place
    if opened:
        raise NotReadable(f"{tokens[opened[-1]].text!r} is not closed")
    return pairs


def opens(token: Token) -> bool:
    """Whether the token is an opening bracket, or begins an environment."""
    return (token.kind == "symbol" and token.text in _CLOSED_BY) or token.text.startswith("begin:")


def closes(token: Token) -> bool:
    """Whether the token is a closing bracket, or ends an environment."""
    return (token.kind == "symbol" and token.text in _CLOSING) or token.text.startswith("end:")


def _closings(opening: Token) -> tuple[str, ...]:
    if opening.kind == "command":
        return (opening.text.replace("begin:", "end:"),)
    return _CLOSED_BY[opening.text]


def split(tokens: Tokens, separators: Collection[str]) -> tuple[list[list[Token]], list[str]]:
    """The parts between separators outside of brackets, and the separators."""
    parts: list[list[Token]] = [[]]
    found: list[str] = []
    depth = 0
    for token in tokens:
        depth += opens(token) - closes(token)
        if depth == 0 and token.kind == "symbol" and token.text in separators:
            parts.append([])
            found.append(token.text)
        else:
            parts[-1].append(token)
    return parts, found


def enclosed(tokens: Tokens) -> tuple[str, list[Token], str] | None:
    """The brackets around all of ``tokens`` and what they enclose, or None where there are none."""
    if len(tokens) < 2 or not opens(tokens[0]) or matches(tokens).get(0) != len(tokens) - 1:
        return None
    return tokens[0].text, list(tokens[1:-1]), tokens[-1].text


def with_sign(tokens: Tokens, *, upper: bool) -> list[Token]:
    """The same with the upper or the lower sign of each plus-minus and minus-plus."""
    signs = {"pm": "+" if upper else "-", "mp": "-" if upper else "+"}
    return [
        replace(token, text=signs[token.text]) if token.kind == "symbol" and token.text in signs else token
        for token in tokens
    ]


def has(tokens: Tokens, *symbols: str) -> bool:
    """Whether one of the symbols is among the tokens, at any depth."""
    return any(token.kind == "symbol" and token.text in symbols for token in tokens)


def written(tokens: Tokens) -> str:
    """The tokens as one string, for what cannot be read: words without case, braces where they matter."""
    parts: list[str] = []
    for place, token in enumerate(tokens):
        if token.text in ("{", "}") and _around_one(tokens, place):
            continue
        text = token.text.casefold() if token.kind == "word" else token.text
        if token.kind == "number" and parts and parts[-1][-1:].isdigit():
            text = f"~{text}"  # two numbers, and not one
        parts.append(f"\\{text}" if token.kind == "command" else text)
    return "".join(parts)


def _around_one(tokens: Tokens, place: int) -> bool:
    """Whether a brace has one token within: that changes nothing, as in x^{2}."""
    other = place + 2 if tokens[place].text == "{" else place - 2
    return 0 <= other < len(tokens) and tokens[other].text == {"{": "}", "}": "{"}[tokens[place].text]
