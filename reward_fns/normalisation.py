r"""Rewriting answers so that equal ones become equal strings.

After the normalisation of Minerva (Lewkowycz et al., arXiv 2206.14858, appendix D.1), with fewer accidents:
units are dropped only behind a number, commas only between groups of three digits, and words around a formula
only if they hold no digit, so that ``$5$ or $6$`` is not an answer of 5.
"""

from __future__ import annotations

import re
from typing import Any

from reward_fns.extraction import last_boxed

_MINUS = re.compile("[\N{HYPHEN}-\N{EN DASH}\N{FULLWIDTH HYPHEN-MINUS}](?=[0-9.$\\\\])|\N{MINUS SIGN}")
_MARKUP = "*` \t\n"
# An even number of backslashes before it are line breaks of a matrix, of which the last one starts no command.
_SPACES = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:[ ,;:]|quad\b|qquad\b)|~")
_INVISIBLE = re.compile(r'\\!|\\(?:left|right|displaystyle)(?![A-Za-z])|"')
# No delimiter within, which also keeps the search linear where \( is repeated without an end.
_MATH = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]")
_MATH_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]|\$")
_EQUALS = re.compile(r"(?<![<>!])=")
_LIST_MARK = re.compile(r"[,;]|\band\b|\bor\b")
_STYLED = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(\{[^{}]*\}|[0-9A-Za-z])\s*(\{[^{}]*\}|[0-9A-Za-z])")
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_SLASH = re.compile(r"(-?)([0-9]+)/([0-9]+)")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\\?%")
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=[A-Za-z]{2})", re.IGNORECASE)
_GROUPS_OF_THREE = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_JOINING_SPACE = re.compile(" (?![0-9])|(?<![0-9]) ")
_NUMBER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.([0-9]*))?")

NUMBER_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|(?:dozen|hundred|thousand|million|billion|trillion)s?|half|halves|"
    "(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?"
)
# Beside a formula these say more than prose does.
_NOT_PROSE = re.compile(rf"[0-9\\^+/<>=√π²³½¼¾]|\b(?:{NUMBER_WORDS}|plus|minus|pi)\b", re.IGNORECASE)
UNIT_WORDS = (
    "square|sq|cubic|units?|inch(?:es)?|ft|feet|foot|miles?|mm|cm|km|met(?:er|re)s?|mph|kg|gm|grams?|pounds?|"
    "lbs?|oz|ml|"
    "seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|percent|degrees?|points?|digits?|ways?|"
    "integers?|multiples|edges|students|people|tickets|meals"
)
_POWER = r"(?:\s*\^\s*\{?[23]\}?)?"
_UNITS = re.compile(rf"(?<=[0-9}}])(?:\s*(?:{UNIT_WORDS})\b{_POWER})+\.?")
# One letter is a unit only if it is set upright; otherwise it is a variable.
_UPRIGHT_UNIT = re.compile(rf"(?<=[0-9}}])\s*\\(?:text|mathrm|mbox)\s*\{{\s*(?:m|s|g|h|L|th)\s*\}}{_POWER}")


def same_answer(answer: str, truth: str) -> bool:
    """Whether two answers are the same string after `normalise`; an empty one equals nothing."""
    normalised = normalise(answer)
    return normalised != "" and normalised == normalise(truth)


def normalise(answer: str) -> str:
    """Return the normal form of a final answer; applying it again changes nothing for numbers."""
    text = _DEGREES.sub("", unwrap(answer))
    text = _ARTICLE.sub("", text.strip())
    text = _UNITS.sub("", text)
    text = re.sub(r",?\s*\band\b", ",", text)
    text = _JOINING_SPACE.sub("", " ".join(text.split())).rstrip(".,;")
    text = _plain_number(text)
    return _SLASH.sub(r"\1\\frac{\2}{\3}", text) if _SLASH.fullmatch(text) else text


def unwrap(answer: str) -> str:
    r"""Take an answer out of its mark-up: bold, ``\boxed``, math delimiters, ``x =``, ``\text``.

    Shorthand ``\frac12`` and ``\sqrt3`` become ``\frac{1}{2}`` and ``\sqrt{3}``. Spaces stay, but for those in 1 000.
    """
    text = _bare(_MINUS.sub("-", answer))
    boxed = last_boxed(text)
    text = text if boxed is None else boxed
    text = _INVISIBLE.sub("", _SPACES.sub(r"\1 ", text.replace(r"\$", " ").replace("{,}", ",")))
    text = _right_hand_side(_math_content(text))
    text = _UPRIGHT_UNIT.sub("", text)
    text, changed = _STYLED.subn(r"\1", text)
    while changed:
        text, changed = _STYLED.subn(r"\1", text)
    text = _FRACTION.sub(_braced_fraction, _FRACTION_NAME.sub(r"\\frac", text))
    text = _GROUPS_OF_THREE.sub(lambda match: match[0].replace(" ", ""), " ".join(text.split()))
    return _bare(_ROOT.sub(r"\\sqrt{\1}", text))


def _bare(text: str) -> str:
    """Without bold, backticks and a full stop around it, however they are mixed."""
    text = text.lstrip(_MARKUP)
    bare = text.rstrip(_MARKUP + ".,;")
    return (
        text[: len(bare) + 1] if bare.endswith("\\") else bare
    )  # the comma of a command \, is no punctuation


def _math_content(text: str) -> str:
    segments = list(_MATH.finditer(text))
    if len(segments) == 1:
        (segment,) = segments
        before, after = text[: segment.start()].rstrip(), text[segment.end() :]
        joined = before.endswith(("-", "+")) or after[:1].isalpha()
        if not joined and not _NOT_PROSE.search(f"{before} {after}"):
            return next(group for group in segment.groups() if group is not None)
    return _MATH_DELIMITER.sub(" ", text)


def _right_hand_side(text: str) -> str:
    """``x = y = 5`` says 5, but ``x = 1, y = 5`` does not."""
    parts = _EQUALS.split(text)
    return text if any(_LIST_MARK.search(part) for part in parts[1:-1]) else parts[-1]


def _braced_fraction(match: re.Match[str]) -> str:
    numerator, denominator = (part.strip("{}") for part in match.groups())
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _plain_number(text: str) -> str:
    """``+1,234.50`` as ``1234.5``; anything but a number as it is."""
    match = _NUMBER.fullmatch(text)
    if match is None or not re.search("[0-9]", text):
        return text
    sign, whole, decimals = (
        match[1],
        match[2].replace(",", "").lstrip("0") or "0",
        (match[3] or "").rstrip("0"),
    )
    number = f"{whole}.{decimals}" if decimals else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def judge(answer: str | None, ground_truth: str, correct_score: float, wrong_score: float) -> dict[str, Any]:
    """What a rule that compares normalised text returns; an answer of None, none found, is wrong."""
    correct = answer is not None and same_answer(answer, ground_truth)
    return {
        "score": correct_score if correct else wrong_score,
        "acc": correct,
        "pred": None if answer is None else normalise(answer),
    }
