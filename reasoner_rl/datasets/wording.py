"""What two problems have in common: their text without layout, without numbers, without names.

Instructions around a problem, such as DAPO's prompt, are no part of it.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from reasoner_rl.config.data import DAPO_PROMPT
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.templates import inside

# Texts that published files put around their problems; verl's are those of its examples.
INSTRUCTIONS = (
    DAPO_PROMPT,
    '{problem} Let\'s think step by step and output the final answer after "####".',
    "{problem} Let's think step by step and output the final answer within \\boxed{}.",
    "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.",
)

# --- the problem of a row


def bare(text: str) -> str:
    """A prompt without the instruction around it, if it is one of `INSTRUCTIONS`."""
    for instruction in INSTRUCTIONS:
        if found := inside(instruction, text):
            return found.strip()
    return text


def problem_text(problem: Problem) -> str:
    """What is asked: the last message of the user, without a known instruction."""
    asked = [message["content"] for message in problem.messages if message["role"] == "user"]
    return bare(asked[-1] if asked else problem.messages[-1]["content"])


# --- without layout, and without numbers

_NUMBER_WORD = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|dozen|hundred|thousand|million"
)
_NUMBER = re.compile(rf"\d[\d,]*(?:\.\d+)?|\b(?:{_NUMBER_WORD})(?:[ -]+(?:{_NUMBER_WORD}))*\b")
_MATH_LAYOUT = re.compile(r"\\(?:left|right|[bB]ig[glr]?|displaystyle|q?quad)(?![a-z])|\\[()\[\],;:! ]|[$~]")
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|#")


def without_layout(text: str) -> str:
    r"""A text in lower case and one form of Unicode, without spaces, mathematical delimiters and sizes, final points.

    ``\dfrac`` is ``\frac``; operators and other signs stay: x+1 is not x-1.
    """
    return _SPACE.sub("", _plain(text)).rstrip(".?!:")


def without_numbers(text: str) -> str:
    """`without_layout`, with a # in place of each number: digits, or words such as thirty-four."""
    return _SPACE.sub("", _NUMBER.sub("#", _plain(text))).rstrip(".?!:")


def words_of(text: str, *, numbers: bool = True) -> list[str]:
    """The words and numbers of a text, in lower case and without punctuation; numbers as # where they do not count."""
    plain = _plain(text).replace("#", " ")
    return _WORD.findall(plain if numbers else _NUMBER.sub("#", plain))


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _FRACTION.sub(r"\\frac", _MATH_LAYOUT.sub(" ", folded))


# --- word problems without names

WORD = re.compile(r"[A-Za-z]+|\d[\d,]*(?:\.\d+)?")
NUMBER_WORD = re.compile(_NUMBER_WORD)
PRONOUNS = {"she": "he", "her": "his", "hers": "his", "him": "his"}
# Jaccard similarity of two templates' word sets: reached by 9 words if one is exchanged, by 18 if two are.
NEAR = Fraction(4, 5)


def proper_names(problems: Iterable[str]) -> frozenset[str]:
    """Words, in lower case, that are written with a capital wherever they occur: names of people, days, shops."""
    words = {word for problem in problems for word in WORD.findall(problem)}
    return frozenset(word.lower() for word in words if word[0].isupper() and word.lower() not in words)


def template_of(problem: str, names: frozenset[str]) -> str:
    """The problem with numbers, names and the gender of pronouns taken out, lower case, without punctuation.

    Two problems with one template are the same problem about other people and other numbers. A number may take
    several words: ``thirty-four`` is one ``#``.
    """
    words: list[str] = []
    for word in WORD.findall(problem):
        lower = word.lower()
        if lower[0].isdigit() or NUMBER_WORD.fullmatch(lower):
            if words[-1:] != ["#"]:
                words.append("#")
        elif lower in names:
            words.append("@")
        else:
            words.append(PRONOUNS.get(lower, lower))
    return " ".join(words)


def near_pairs(templates: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of templates whose word sets have a Jaccard similarity of at least ``NEAR``; all of them.

    Such sets share one of their rarest words, the first ``n - ceil(NEAR * n) + 1`` of ``n``: only those are looked
    up, which keeps thousands of templates from being compared each with each (Bayardo et al., WWW 2007).
    """
    word_sets = [frozenset(template.split()) for template in templates]
    frequency = Counter(word for words in word_sets for word in words)
    holders: dict[str, list[int]] = {}
    for index, words in enumerate(word_sets):
        by_rarity = sorted(words, key=lambda word: (frequency[word], word))
        rarest = by_rarity[: len(words) - math.ceil(NEAR * len(words)) + 1]
        for other in {other for word in rarest for other in holders.get(word, [])}:
            common = len(words & word_sets[other])
            if common >= NEAR * (len(words) + len(word_sets[other]) - common):
                yield templates[other], templates[index]
        for word in rarest:
            holders.setdefault(word, []).append(index)


def families(templates: Iterable[str]) -> dict[str, str]:
    """For each template one that stands for its family: all that a chain of near pairs connects."""
    ordered = sorted(set(templates))
    return connected(ordered, near_pairs(ordered))


# --- families and splits

Item = TypeVar("Item", str, int)


def connected(items: Iterable[Item], pairs: Iterable[tuple[Item, Item]]) -> dict[Item, Item]:
    """For each item the least of all that a chain of pairs connects it with."""
    parents = {item: item for item in items}

    def head(item: Item) -> Item:
        while parents[item] != item:
            parents[item] = item = parents[parents[item]]
        return item

    for left, right in pairs:
        first, second = sorted((head(left), head(right)))
        parents[second] = first
    return {item: head(item) for item in parents}


def choose_families(
    sizes: Mapping[Item, int], candidates: Iterable[Item], wanted: int, seed: int
) -> tuple[set[Item], int]:
    """Families of ``wanted`` members together, taken in a random order; and how many members are missing.

    A family that is larger than what is still missing is passed over. The same seed gives the same choice.
    """
    order = sorted(candidates)
    random.Random(seed).shuffle(order)
    chosen: set[Item] = set()
    for family in order:
        if sizes[family] <= wanted:
            chosen.add(family)
            wanted -= sizes[family]
    return chosen, wanted
