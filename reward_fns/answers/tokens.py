"""Cutting the text of an answer into tokens: LaTeX, plain text, Unicode or a mixture of them, as models write it.

What only changes the looks of an answer (spacing, sizes, fonts, delimiters of formulas) is gone afterwards. Text is
only ever read here, never run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from reward_fns.answers import vocabulary as words

MAX_CHARACTERS = 2000  # longer answers are compared as text
MAX_DIGITS = 1000  # of one number
MAX_EXPONENT = 400  # of ten, in scientific notation
MAX_FONTS = 20  # of commands such as \text{} within each other

Kind = Literal["number", "letter", "word", "command", "symbol"]


class NotReadable(ValueError):
    """The text is no mathematical answer, or one beyond the limits."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `text` is its normal form: ``frac`` for ``\\dfrac``, ``<=`` for ``\\leq`` and its Unicode sign."""

    kind: Kind
    text: str
    spaced: bool = False  # whether space stood before it
    value: Fraction | None = None  # of a number
    decimals: int | None = None  # digits after the point of a decimal, None for other numbers


_SEPARATORS = r"\{,\}|\\[,;: ]|\\!\s*,\s*\\!|,\s*\\!\s*|[ ~\u00a0\u2009\u202f]"
_NUMBER_FORMS = r"""
    (?P<repeating> [0-9]* \. [0-9]* (?: \\(?:overline|bar|dot) \s* (?: \{[0-9]+\} | [0-9] ) | \([0-9]+\) ) )
  | (?P<mixed> [0-9]+ \s+ [0-9]+ \s* / \s* [0-9]+ (?![0-9.,]) )
  | (?P<grouped> [0-9]{1,3} (?: (?:SEPARATORS) [0-9]{3} )+ (?![0-9]) (?: \.[0-9]+ )? )
  | (?P<plain> (?: [0-9]+ (?:\.[0-9]*)? | \.[0-9]+ ) (?: [eE][+-]?[0-9]{1,4} (?![0-9.A-Za-z^]) )? )
"""
_FORM = r"""
  | (?P<space> \s+ | ~ | \\[,;:!\ ]
      | \\(?:quad|qquad|thinspace|displaystyle|textstyle|limits|nolimits|bf|rm|it)(?![A-Za-z])
      | \\(?:tiny|small|large|Large|LARGE|huge)(?![A-Za-z]) | \\(?:color|textcolor) \s* \{[A-Za-z0-9!]*\}
      | \\(?:hspace|vspace) \*? \s* \{[^{}]*\}
      | \\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z]) (?:\s*\.)? | \\[()\[\]] (?![0-9]*(?:pt|em)) | \$ )
  | (?P<environment> \\(?P<edge>begin|end) \s* \{(?P<matrix>[a-zA-Z]+)\*?\} (?: \{[^{}]*\} | \[[^\]]*\] )? )
  | (?P<font> \\(?:FONTS)(?![A-Za-z]) \*? \s* \{ )
  | (?P<command> \\[A-Za-z]+ | \\\\(?:\[[^\]]*\])? | \\. )
  | (?P<letters> [A-Za-z]+ )
  | (?P<foreign> [^\W\d_]+ )
  | (?P<symbol> <= | >= | != | == | \*\* | \.\.\.+ | . )
"""


def _pattern(separators: str) -> re.Pattern[str]:
    numbers = _NUMBER_FORMS.replace("SEPARATORS", separators)
    rest = _FORM.replace("FONTS", "|".join(sorted(words.FONTS, key=len, reverse=True)))
    return re.compile(numbers + rest, re.VERBOSE | re.DOTALL)


_WITH_COMMAS, _WITHOUT = _pattern(f",|{_SEPARATORS}"), _pattern(_SEPARATORS)


def tokenize(text: str) -> list[Token]:
    """Cut an answer into tokens; outside of brackets ``1,234`` is one number.

    Raises NotReadable where a limit is exceeded or a character has no business here.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotReadable(f"an answer of {len(text)} characters")
    return _Lexer().lex(_plain_characters(text), upright=False, depth=0)


def _plain_characters(text: str) -> str:
    """Superscripts, fractions and compatibility forms as plain characters; invisible marks removed."""
    text = words.PRIMES.sub(lambda m: "'" * m[0].count("prime"), text.translate(words.CHARACTERS))
    text = words.SUPERSCRIPTS.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    text = words.VULGAR_FRACTIONS.sub(_vulgar_fraction, text)
    text = words.INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if words.FORBIDDEN.search(text):
        raise NotReadable("control characters")
    text = "".join(str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in text)
    return text.translate(words.CHARACTERS)


def _vulgar_fraction(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


class _Lexer:
    def __init__(self) -> None:
        self._brackets = 0
        self._tokens: list[Token] = []
        self._spaced = False

    def lex(self, text: str, *, upright: bool, depth: int, behind: str = "") -> list[Token]:
        """Add the tokens of ``text``; upright: as in \\text{}, where letters are words; behind: what follows it."""
        if depth > MAX_FONTS:
            raise NotReadable("too many fonts within each other")
        place = 0
        while place < len(text):
            pattern = _WITHOUT if self._brackets else _WITH_COMMAS
            match = pattern.match(text, place)
            assert match is not None  # the last alternative takes anything
            assert match.lastgroup is not None
            place = match.end()
            kind = match.lastgroup
            if kind == "space" or (kind == "symbol" and match[0] == "`"):
                self._spaced = True
            elif kind == "font":
                end = _closing_brace(text, place)
                name = match[0].strip("\\*{ \n\t")
                inner = text[place:end]
                is_text = name in words.UPRIGHT_FONTS and not (
                    name == "mathrm" and inner.strip() in words.CONSTANTS
                )
                self.lex(inner, upright=is_text, depth=depth + 1, behind=text[end + 1 :] + behind)
                self._spaced |= is_text
                place = end + 1
            else:
                self._take(kind, match, upright, behind)
        return self._tokens

    def _take(self, kind: str, match: re.Match[str], upright: bool, behind: str) -> None:
        text = match[0]
        if kind in ("repeating", "mixed", "grouped", "plain"):
            value, decimals = _NUMBERS[kind](text)
            self._add("number", text.rstrip("."), value, decimals)
        elif kind in ("environment", "edge", "matrix"):
            self._add("command", f"{match['edge']}:{match['matrix'].lower()}")
        elif kind == "command":
            self._command(text)
        elif kind == "letters":
            self._letters(text, upright, lambda: match.string[match.end() :] + behind)
        elif kind == "foreign":
            self._add("word", text)
        else:
            self._symbol(words.SYMBOLS.get(text, text))

    def _add(self, kind: Kind, text: str, value: Fraction | None = None, decimals: int | None = None) -> None:
        self._tokens.append(Token(kind, text, self._spaced, value, decimals))
        self._spaced = False

    def _symbol(self, text: str) -> None:
        if text in words.OPENING:
            self._brackets += 1
        elif text in words.CLOSING:
            self._brackets = max(0, self._brackets - 1)
        self._add("symbol", text)

    def _command(self, text: str) -> None:
        name = r"\\" if text.startswith(r"\\") else text[1:]
        if name in words.COMMAND_SYMBOLS:
            self._symbol(words.COMMAND_SYMBOLS[name])
        else:
            self._add("command", words.COMMAND_SYNONYMS.get(name, name))

    def _letters(self, text: str, upright: bool, following: Callable[[], str]) -> None:
        lower = text.lower()
        if lower in words.UNITS_OR_FUNCTIONS and self._is_unit(following()):
            self._add("word", text)
        elif lower in words.PLAIN_FUNCTIONS and len(text) > 1:
            self._add("command", words.PLAIN_FUNCTIONS[lower])
        elif lower in words.WORD_SYMBOLS:
            self._add("symbol", words.WORD_SYMBOLS[lower])
        elif lower in ("pct", "percentage") and self._is_percent(following()):
            self._symbol("%")
        elif lower in ("degree", "degrees") or (lower == "deg" and self._is_unit(following())):
            self._add("command", "degree")
        elif upright or _is_word(text):
            self._add("word", text)
        else:
            for letter in text:
                self._add("letter", letter)

    def _is_unit(self, following: str) -> bool:
        """Whether "min" is minutes, behind a number or a unit and a slash, and not the least of what follows."""
        before = self._tokens[-1].text if self._tokens else ""
        behind_number = bool(self._tokens) and self._tokens[-1].kind == "number"
        per = before in ("/", "per") and len(self._tokens) > 1
        return (behind_number or per) and words.BEHIND_UNIT.match(following) is not None

    def _is_percent(self, following: str) -> bool:
        """Whether "percentage" is a sign behind a number; "percentage points" are a unit of their own."""
        behind_number = bool(self._tokens) and self._tokens[-1].kind == "number"
        return behind_number and not following.lstrip(" \\~").lower().startswith("point")


def _is_word(text: str) -> bool:
    """Whether letters outside of \\text{} are a word, and not a product of variables."""
    if len(text) < 2:
        return False
    name = len(text) == 3 and text.istitle()  # Bob
    return len(text) > 3 or text.isupper() or name or text.lower() in words.SHORT_WORDS


def _closing_brace(text: str, start: int) -> int:
    """Where the group that begins at ``start`` ends."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    raise NotReadable("an open brace")


def _decimal(text: str) -> tuple[Fraction, int | None]:
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(mantissa) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise NotReadable("a number of too many digits")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals)) * Fraction(10) ** int(exponent or 0)
    return value, len(decimals) - int(exponent or 0) if point and decimals else None


def _grouped(text: str) -> tuple[Fraction, int | None]:
    return _decimal(re.sub(r"[^0-9.]", "", text))


def _mixed(text: str) -> tuple[Fraction, int | None]:
    if len(text) > MAX_DIGITS:
        raise NotReadable("a number of too many digits")
    whole, above, below = (int(part) for part in re.findall("[0-9]+", text))
    if not 0 < above < below:
        raise NotReadable("two numbers side by side")
    return whole + Fraction(above, below), None


def _repeating(text: str) -> tuple[Fraction, int | None]:
    if len(text) > MAX_DIGITS:
        raise NotReadable("a number of too many digits")
    start, period = re.split(r"\\(?:overline|bar|dot)|\(", text)
    period = re.sub("[^0-9]", "", period)
    value, _ = _decimal(start)
    digits = len(start.partition(".")[2])
    return value + Fraction(int(period), (10 ** len(period) - 1) * 10**digits), None


_NUMBERS = {"repeating": _repeating, "mixed": _mixed, "grouped": _grouped, "plain": _decimal}
