r"""The content of ``\boxed{...}`` in a response."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+(?P<bare>-?[0-9][0-9.]*)|\\.|[{}]", re.DOTALL)
_NO_BRACE_YET = re.compile(r"\\(?:boxed|fbox)\s*\Z")
# Behind the last box.
_TAKEN_BACK = re.compile(
    r"[\s$.,)\]\\]{0,6}(?:text\{\s*)?"
    r"(?:(?P<wrong>is (?:wrong|incorrect|not)\b)|or (?:maybe |perhaps )?(?P<other>[^\s]{1,20})[\s.$]*(?:\n|\Z))"
)
# Between two boxes these words, and nothing else, make one answer of both: "\boxed{41}, or maybe \boxed{42}".
_JOINING_WORD = re.compile(
    "and|or|also|maybe|perhaps|possibly|alternatively|either|else|could|be|it|is|the|answer|might|as|well|"
    "text|quad|qquad|mathrm|textbf|hspace"
)
_PART = re.compile(
    r"(?i)(?:\b(?:for|in)\s+)?\bparts?\s*\(?(?:[a-h]|i{1,3}|iv|v|[1-9])\)?(?![A-Za-z0-9])|\((?:[a-h]|i{1,3}|iv|v|[1-9])\)"
)
# In front of a box: "$y_1 = ".
_LABEL = re.compile(
    r"(?<![\w\\^+\-*/})])(?P<name>\\?[A-Za-z]{1,8}(?:_(?:\w|\{\w{1,8}\}))?'?(?:\(\w{1,3}\))?)\s*=\s*[\s$({]*\Z"
)
# Between two boxes of one sentence that may be parts of one answer: "... and the width is". These words mark a step:
_STEP = re.compile(
    r"(?i)\b(?:so|hence|thus|therefore|then|giv(?:es|ing)|means?|yield(?:s|ing)?|impl(?:y|ies)|which|because|since|answer|result|"
    r"total|finally|final|not|instead|but|actually|correct(?:ed)?|wrong|no|wait|if|when|or|simplif\w*|equal(?:s|ling)?|"
    r"becomes?|rounded?|from|plus|minus|times|sum|product|difference)\b"
)
_CLAUSE = re.compile(r"[\s$\\,;()\]]*(?:(?:,|;|\band\b|\bwhile\b)[^.!?:\n]*)")
_ORDINALS = ["first", "second", "third", "fourth", "fifth"]
_ORDINAL = re.compile(rf"(?i)\b({'|'.join(_ORDINALS)})\b")
# "$y$ is", "the y-coordinate is", "for $b$ we have".
_LETTER = re.compile(
    r"(?<![\w\\])(?P<letter>[A-Za-z])\$?(?:[- ](?:coordinate|component|intercept|value))?\$?\s*"
    r"(?:=|is|must be|equals|we (?:have|get|find))?\s*[\s$({]*\Z"
)
_MENTION = re.compile(r"(?i)\b(?:in|within|inside|into|using|with|by|a|the|of)\s+[$`\"'(\\]*\Z")
_MOST_BETWEEN = 60  # characters


class _Box(NamedTuple):
    command: int  # where \boxed begins
    start: int  # where its content begins
    end: int  # where its content ends
    after: int  # where what follows begins


class Boxes:
    r"""All boxes of a text. Reading them takes linear time.

    cut_off: where a ``\boxed{`` begins that is not closed and after which no other box begins; -1 where there is none.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._closed, opened = _read(text)
        newest = max((box.command for box in self._closed), default=-1)
        self.cut_off = opened if opened > newest else -1

    @property
    def last(self) -> int:
        """Where the last box begins that is closed; -1 where there is none."""
        return max((box.command for box in self._closed), default=-1)

    def content(self, *, after: int = 0) -> str | None:
        r"""The content of the last box, or None where there is none, or where it is taken back.

        after: where the box must not have ended yet. Boxes that are joined by "or", commas and the like are returned
        together, as a list; with their names where each has one, as in ``x = \boxed{1}, y = \boxed{2}``.
        """
        text = self._text
        boxes = [box for box in self._closed if box.end >= after and not self._is_mention(box)]
        if not boxes or self.cut_off >= 0:
            return None
        last = max(boxes, key=lambda box: box.start)
        content = text[last.start : last.end].strip()
        if not content:
            return ""
        if (taken_back := _TAKEN_BACK.match(text, last.after)) is not None:
            return None if taken_back["wrong"] else f"{content} or {taken_back['other']}"
        joined = [last]
        for box in sorted(boxes, key=lambda box: box.end, reverse=True):
            if box.end >= joined[-1].command:
                continue
            if not self._joins(box, joined[-1]):
                break
            joined.append(box)
        return self._list(joined[::-1])

    def of_clauses(self, ordered: bool = False) -> list[str]:
        r"""The contents of the boxes of the last sentence that has several, if short words stand between them.

        "The length is \\boxed{9} and the width is \\boxed{4}." They may be the parts of one answer, or a step and the
        answer: what is asked for decides. Empty where words such as "hence" show that the last follows from the others.

        ordered: as the parts of a tuple, each of which has a name; empty where letters, or "first" and "second", are
        in another order.
        """
        boxes = sorted((box for box in self._closed if not self._is_mention(box)), key=lambda box: box.start)
        if self.cut_off >= 0 or not boxes or any(a.after > b.command for a, b in pairwise(boxes)):
            return []
        kept = [boxes[-1]]
        for box in reversed(boxes[:-1]):
            between = self._text[box.after : kept[-1].command]
            if len(between) > _MOST_BETWEEN or not _CLAUSE.fullmatch(between) or _STEP.search(between):
                break
            if re.search(r"[0-9+*/^<>]", between):
                break
            kept.append(box)
        if len(kept) < 2 or all(map(self._name, kept)):  # those with names are one answer already
            return []
        kept.reverse()
        if ordered and not self._in_order(kept):
            return []
        return [self._text[box.start : box.end].strip() for box in kept]

    def _in_order(self, boxes: list[_Box]) -> bool:
        """Whether all boxes have names, not in reverse order, such as y before x or "second" before "first"."""
        if any(self._joins(*pair) for pair in pairwise(boxes)):
            return False
        ends = [max(0, boxes[0].command - _MOST_BETWEEN), *(box.after for box in boxes)]
        leads = [self._text[end : box.command] for end, box in zip(ends, boxes, strict=False)]
        places = [_ORDINALS.index(found[-1].lower()) for lead in leads if (found := _ORDINAL.findall(lead))]
        letters = [letter["letter"] for lead in leads if (letter := _LETTER.search(lead))]
        return places == sorted(places) and letters == sorted(letters)

    def _is_mention(self, box: _Box) -> bool:
        """Whether a box only describes the format: "the answer is given within \\boxed{}"."""
        empty = not self._text[box.start : box.end].strip()
        return empty and _MENTION.search(self._text[max(0, box.command - 20) : box.command]) is not None

    def _list(self, boxes: list[_Box]) -> str:
        contents = [self._text[box.start : box.end].strip() for box in boxes]
        if len(set(contents)) == 1:
            return contents[0]
        names = [self._name(box) for box in boxes]
        if all(names):
            return ", ".join(f"{name} = {content}" for name, content in zip(names, contents, strict=True))
        return ", ".join(contents)

    def _joins(self, box: _Box, following: _Box) -> bool:
        """Whether what stands between two boxes leaves both as an answer."""
        between = self._text[box.after : following.command]
        if len(between) > _MOST_BETWEEN:
            return False
        if self._name(following) and self._name(box):
            between = between[: _label(between).start()]  # type: ignore[union-attr]
        between = _PART.sub(" ", between)
        if re.search(r"[0-9=<>+*/^]|\\[({]", between.replace(r"\(", "").replace(r"\)", "")):
            return False
        return all(_JOINING_WORD.fullmatch(word) for word in re.findall("[a-z]+", between.lower()))

    def _name(self, box: _Box) -> str:
        found = _label(self._text[max(0, box.command - _MOST_BETWEEN) : box.command])
        return "" if found is None else found["name"]


def last_boxed(text: str, *, after: int = 0) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` whose braces balance, or None; also if a later one is cut off.

    See `Boxes.content`.
    """
    return Boxes(text).content(after=after)


def _label(before: str) -> re.Match[str] | None:
    return _LABEL.search(before)


def _read(text: str) -> tuple[list[_Box], int]:
    """The boxes that are closed, and where the last begins that is not, or -1."""
    # For each open brace: where it begins, where its content starts, and whether it is a box.
    opened: list[tuple[int, int, bool]] = []
    found = []
    for token in _BOX_OR_BRACE.finditer(text):
        if token["bare"]:  # \boxed 7
            after = token.end() + text.startswith("}", token.end())
            found.append(_Box(token.start(), token.start("bare"), token.end(), after))
        elif token[0] == "}":
            command, start, is_box = opened.pop() if opened else (-1, -1, False)
            if is_box:
                found.append(_Box(command, start, token.start(), token.end()))
        elif token[0].endswith("{") and token[0] != r"\{":
            opened.append((token.start(), token.end(), token[0] != "{"))
    left_open = max((command for command, _, is_box in opened if is_box), default=-1)
    if (bare := _NO_BRACE_YET.search(text, max(0, len(text) - _MOST_BETWEEN))) is not None:
        left_open = max(left_open, bare.start())
    return found, left_open
