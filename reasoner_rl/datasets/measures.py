"""What a set of problems is like: how long they are, and what kinds of answers they have."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# The first pattern that fits the whole answer, as it is written, names its type.
_TYPES = (
    ("integer", re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)")),
    ("decimal", re.compile(r"[-+]?\d[\d,]*\.\d+|[-+]?\.\d+")),
    ("fraction", re.compile(r"[-+]?\d+\s*/\s*\d+|-?\\[dt]?frac\s*\{?-?\d+\}?\s*\{?-?\d+\}?")),
    (
        "number with a unit or percent",
        re.compile(r"[$£€]?\s?[-+]?\d[\d,.]*\s?(?:\\?%|[A-Za-z°][A-Za-z°\s/]*)"),
    ),
    ("list or mapping (JSON)", re.compile(r"\{\s*\".*\}|\[\s*\".*\]", re.DOTALL)),
    ("tuple or interval", re.compile(r"(?:\\left)?\s*[(\[].*,.*[)\]]", re.DOTALL)),
    (
        "words",
        re.compile(
            r"(?=.*[^\W\d_]{2})(?:\\text\{)?[^\W\d_][^\W\d_\s.'’-]*(?:[\s.'’-]+[^\W\d_][^\W\d_.'’-]*)*\.?\}?"
        ),
    ),
)
OTHER = "expression"


def answer_type(answer: str) -> str:
    """The type of an answer by how it is written, such as integer; see `_TYPES`."""
    text = answer.strip().removeprefix("$").removesuffix("$").strip()
    return next((name for name, pattern in _TYPES if pattern.fullmatch(text)), OTHER)


def answer_types(answers: Sequence[str]) -> dict[str, int]:
    """How many answers of each type there are, the most frequent first."""
    return dict(Counter(map(answer_type, answers)).most_common())


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts are, in one unit."""

    unit: str
    least: int
    median: float
    percentile_95: int
    most: int
    histogram: tuple[tuple[int, int], ...]  # (upper bound, texts of up to it and above the one before)


def lengths(values: Sequence[int], unit: str) -> Lengths:
    """Summary and histogram of lengths; the bounds of the histogram are powers of two from 16 on."""
    ordered = sorted(values)
    histogram, bound, below = list[tuple[int, int]](), 16, 0
    while below < len(ordered):
        upto = sum(value <= bound for value in ordered)
        if upto or histogram:
            histogram.append((bound, upto - below))
        below, bound = upto, 2 * bound
    rank = -(-95 * len(ordered) // 100)  # the nearest rank
    return Lengths(
        unit, ordered[0], statistics.median(ordered), ordered[rank - 1], ordered[-1], tuple(histogram)
    )
