"""What follows a number: units, in a normal form, and words that multiply."""

from __future__ import annotations

import re
from fractions import Fraction

from reward_fns.answers import vocabulary as words
from reward_fns.answers.structure import Tokens
from reward_fns.answers.tokens import NotReadable, Token

_CURRENCIES = {"dollar": "dollar", "cent": "cent", "euro": "euro", "pounds": "gbp", "yen": "yen"}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cubed": "^3"}
_NOTHING = {"unit", "the", "a", "an", "total", "in", "exactly"}
_PARTS = re.compile(
    r"(?:.*teen|.*tie|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|million|billion|n)ths?|fif?ths?"
)
# These take something back, wherever they stand.
_DOUBTS = words.NOT_UNITS - {"to", "x", "all", "each", "even", "odd", "prime"}


def currency(token: Token) -> str | None:
    """The unit that a currency's sign stands for."""
    return _CURRENCIES.get(token.text) if token.kind == "command" else None


def split_unit(tokens: Tokens) -> tuple[list[Token], Fraction, str]:
    """Cut off what follows a number: the rest, what to multiply it by, and the unit, "" if there is none.

    Raises NotReadable where the words are no unit.
    """
    end = next((place for place in range(len(tokens)) if _begins_unit(tokens, place)), len(tokens))
    before, after = list(tokens[:end]), list(tokens[end:])
    factor = Fraction(1)
    while after and _multiple(after[0]):
        factor *= _multiple(after[0])
        after = after[1:]
    unit = ""
    if before and (sign := currency(before[-1])):
        before, unit = before[:-1], sign
    elif before and (sign := currency(before[0])):
        before, unit = before[1:], sign
    elif len(before) > 1 and before[0].text in ("-", "+") and (sign := currency(before[1])):
        before, unit = [before[0], *before[2:]], sign
    return before, factor, normal_unit(after) or unit


def _begins_unit(tokens: Tokens, place: int) -> bool:
    """A word; m/s behind a number and a space; the C of 25 °C."""
    token = tokens[place]
    if token.kind != "letter" or place == 0:
        return token.kind == "word"
    rest = "".join(each.text for each in tokens[place:] if each.text not in "{}")
    if rest in ("C", "F"):
        return any(each.text in ("circ", "degree") for each in tokens[:place])
    return token.spaced and tokens[place - 1].kind == "number" and words.SPEEDS.fullmatch(rest) is not None


def _multiple(token: Token) -> int:
    name = token.text.lower()
    return words.MULTIPLES.get(name) or words.MULTIPLES.get(name.removesuffix("s")) or 0


def normal_unit(tokens: Tokens) -> str:
    """A unit as it is compared: ``km/hour``, ``cm^2``, ``red apple``. Raises NotReadable if it is none."""
    if tokens and tokens[0].text.lower() in words.NOT_UNITS:
        raise NotReadable(f"{tokens[0].text!r} after a number")
    parts: list[str] = []
    power = ""
    place = 0
    while place < len(tokens):
        token = tokens[place]
        name = token.text.lower()
        if token.kind in ("word", "letter"):
            if name in _DOUBTS or _PARTS.fullmatch(name):
                raise NotReadable(f"{token.text!r} after a number")
            if name in _POWERS and not (name.endswith("ed")):
                power = _POWERS[name]
            elif name == "per":
                parts.append("/")
            elif (single := _singular(name)) not in _NOTHING or (power and single == "unit"):
                parts.append(single + power)
                power = ""
        elif name == "^" and place:
            place, exponent = _exponent(tokens, place + 1)
            if parts:  # "units" is none
                parts[-1] += f"^{exponent}"
        elif name == "/" and place + 1 < len(tokens):
            parts.append("/")
        elif not (name in (".", "-", "'", "*", ",") or tokens[place : place + 3] == _plural(tokens, place)):
            raise NotReadable(f"{token.text!r} in a unit")
        else:
            place += 2 * (name == "(")
        place += 1
    return " ".join(parts).replace(" / ", "/")


def _plural(tokens: Tokens, place: int) -> Tokens | None:
    """The three tokens of ``(s)``."""
    three = tokens[place : place + 3]
    return three if [token.text for token in three] in (["(", "s", ")"], ["(", "es", ")"]) else None


def _exponent(tokens: Tokens, place: int) -> tuple[int, str]:
    """Where a small power ends, and which."""
    texts = [token.text for token in tokens[place : place + 3]]
    if texts[:1] and texts[0] in ("2", "3"):
        return place, texts[0]
    if len(texts) == 3 and texts[0] == "{" and texts[1] in ("2", "3") and texts[2] == "}":
        return place + 2, texts[1]
    raise NotReadable("a power of a unit")


def _singular(name: str) -> str:
    for form in (name, name.removesuffix("s"), name.removesuffix("es")):
        if form in words.UNIT_NAMES:
            return words.UNIT_NAMES[form]
    return name.removesuffix("s") if len(name) > 3 and not name.endswith("ss") else name
