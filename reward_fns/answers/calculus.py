r"""Where integrals, limits and derivatives begin and end: \int_0^1 x dx, \lim_{x \to 0} x, \frac{d}{dx} x."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from reward_fns.answers import vocabulary as words
from reward_fns.answers.structure import Tokens, closes, matches, opens
from reward_fns.answers.tokens import NotReadable, Token
from reward_fns.answers.values import Symbol

MAX_ORDER = 4  # of a derivative
_ARROWS = ("to", "rightarrow", "longrightarrow")


class Integrand(NamedTuple):
    """What stands between the bounds of an integral and the end of it."""

    body: list[Token]  # without the differential
    variable: Symbol
    end: int  # where what follows begins


class Approach(NamedTuple):
    """What stands under a limit."""

    variable: Symbol
    target: list[Token]
    side: str  # "", "_above" or "_below"
    end: int


class Differentiation(NamedTuple):
    r"""A \frac{d^2}{dx^2} in front of what is differentiated."""

    variable: Symbol
    order: int
    partial: bool  # other variables are constants
    end: int


def integrand(tokens: Tokens, start: int) -> Integrand:
    r"""What is integrated from ``start`` on: up to its dx, or with it above a fraction's line, as in \frac{dx}{x}.

    Integrals within it have differentials of their own. Raises NotReadable without a differential.
    """
    pairs = matches(tokens)
    open_integrals, place = 1, start
    while place < len(tokens) and not closes(tokens[place]):
        token = tokens[place]
        if token.text == "int" and token.kind == "command":
            open_integrals += 1
        elif _is_differential(tokens, place):
            open_integrals -= 1
            if open_integrals == 0:
                return Integrand(list(tokens[start:place]), _symbol(tokens[place + 1]), place + 2)
        elif token.text == "frac" and (inside := _in_numerator(tokens, place, pairs)) is not None:
            open_integrals -= 1
            if open_integrals == 0:
                middle = pairs[place + 1] + 1
                end = pairs.get(middle, middle) + 1
                above = [*tokens[place + 2 : inside], *tokens[inside + 2 : pairs[place + 1]]]
                above = above or [Token("number", "1", value=Fraction(1))]
                body = [*tokens[start : place + 2], *above, *tokens[pairs[place + 1] : end]]
                return Integrand(body, _symbol(tokens[inside + 1]), end)
        place = pairs[place] + 1 if opens(token) else place + 1
    raise NotReadable("an integral without a differential")


def approach(tokens: Tokens, start: int) -> Approach:
    r"""The ``_{x \to 0^+}`` that begins at ``start``. Raises NotReadable where there is none."""
    texts = [token.text for token in tokens[start : start + 4]]
    if len(texts) < 4 or texts[:2] != ["_", "{"] or texts[3] not in _ARROWS:
        raise NotReadable("a limit of no variable")
    end = matches(tokens)[start + 1]
    target = list(tokens[start + 4 : end])
    side = ""
    for signs in (["^", "+"], ["^", "-"], ["^", "{", "+", "}"], ["^", "{", "-", "}"]):
        if [token.text for token in target[-len(signs) :]] == signs:
            side = "_above" if "+" in signs else "_below"
            target = target[: -len(signs)]
    return Approach(_symbol(tokens[start + 2]), target, side, end + 1)


def differentiation(tokens: Tokens, start: int) -> Differentiation | None:
    r"""The ``{d}{dx}`` behind a \frac that begins at ``start``, or None where it is another fraction."""
    rest = [token.text for token in tokens[start : start + 16]]
    if len(rest) < 7 or rest[0] != "{" or rest[1] not in ("d", "partial"):
        return None
    order, place = _order(rest, 2)
    if rest[place : place + 3] != ["}", "{", rest[1]] or start + place + 3 >= len(tokens):
        return None
    again, end = _order(rest, place + 4)
    if again != order or not 1 <= order <= MAX_ORDER or rest[end : end + 1] != ["}"]:
        return None
    return Differentiation(_symbol(tokens[start + place + 3]), order, rest[1] == "partial", start + end + 1)


def _order(texts: list[str], place: int) -> tuple[int, int]:
    """The number that a power says which begins at ``place``, 1 without one, and where what follows begins."""
    for length, at in ((2, 1), (4, 2)):
        power = texts[place : place + length]
        if len(power) == length and power[0] == "^" and power[at].isdigit() and (at == 1 or power[3] == "}"):
            return int(power[at]), place + length
    return 1, place


def _is_differential(tokens: Tokens, place: int) -> bool:
    """Whether dx, or d and a Greek letter, stands there."""
    if tokens[place].text != "d" or place + 1 >= len(tokens):
        return False
    following = tokens[place + 1]
    return following.kind == "letter" or (following.kind == "command" and following.text in words.GREEK)


def _in_numerator(tokens: Tokens, place: int, pairs: dict[int, int]) -> int | None:
    r"""Where a differential stands in the numerator of the \frac at ``place``, outside of further brackets."""
    if place + 1 >= len(tokens) or tokens[place + 1].text != "{":
        return None
    inner, end = place + 2, pairs[place + 1]
    while inner < end - 1:
        if _is_differential(tokens, inner):
            return inner
        inner = pairs[inner] + 1 if opens(tokens[inner]) else inner + 1
    return None


def _symbol(token: Token) -> Symbol:
    named = token.kind == "letter" or (token.kind == "command" and token.text in words.GREEK)
    if not named or token.text in ("e", "i"):
        raise NotReadable(f"{token.text!r} where a variable was expected")
    return Symbol(token.text)
