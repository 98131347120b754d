"""Finding the final answer in a response. There is no rule that takes any number that stands somewhere."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

Extraction = Literal["answer_or_boxed", "answer", "boxed", "hash_or_answer", "whole"]
EXTRACTIONS: tuple[str, ...] = get_args(Extraction)

_ANSWER_LABEL = r"Answer[\s*]*[:：]"  # also **Answer**: and the colon of Chinese text
_ANSWER_LINE = re.compile(rf"(?i)(?<!wrong )(?<!incorrect ){_ANSWER_LABEL}\s*([^\n]+)")
_DISPLAY = {"$$": "$$", r"\[": r"\]", "$": "$", r"\(": r"\)"}  # a formula that begins on the answer's line
# Not a Markdown heading of the fourth level, "#### Step 2" or "#### Answer: 72".
_HASH_LINE = re.compile(r"(?<!#)####[ \t]*(?![#A-Za-z\s])([^\n]+)")
_FEW_SHOT_END = re.compile(r"(?i)\.?\s*I hope it is correct\.?\s*$")  # of Minerva's prompt
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+(?P<bare>-?[0-9][0-9.]*)|\\.|[{}]", re.DOTALL)
_OPEN_THOUGHT, _CLOSED_THOUGHT = "<think>", "</think>"

# The DAPO reference reads no further back, so that an answer must stand at the end of the response.
ANSWER_WINDOW = 300

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
_MOST_BETWEEN = 60  # characters


def find_answer(response: str, extraction: Extraction = "answer_or_boxed") -> str | None:
    r"""Return the final answer in a response, or None if it states none.

    Thinking between <think> and </think> is left out; what is never closed is all thinking. Of several boxes the last
    counts, but boxes with nothing but "or" between them are one answer.

    extraction: ``answer``: the last ``Answer:`` line, within the last 300 characters. ``boxed``: the last
    ``\boxed{...}``. ``answer_or_boxed``: whichever of these comes later. ``hash_or_answer``: these, or GSM8K's
    ``#### 72``. ``whole``: ``hash_or_answer``, or without any all of a response of one line.
    """
    text = without_thinking(response)
    if extraction == "answer":
        return last_answer_line(text)
    if extraction == "boxed":
        return last_boxed(text)
    found = last_answer_or_boxed(text, hashes=extraction in ("hash_or_answer", "whole"))
    if found is None and extraction == "whole" and "\n" not in text.strip():
        return text.strip() or None
    return found


def without_thinking(response: str) -> str:
    """What follows the last </think> (a template may have opened it); nothing where a <think> is not closed."""
    said = response.rpartition(_CLOSED_THOUGHT)[2]
    return "" if _OPEN_THOUGHT in said else said


def last_answer_line(text: str) -> str | None:
    """Return what follows the last ``Answer:`` within the last 300 characters, or None (arXiv 2503.14476)."""
    found = _last_match(_ANSWER_LINE, text)
    if found is None:
        return None
    return last_boxed(text, after=found.start()) or _line_content(found)


def last_answer_or_boxed(text: str, *, hashes: bool = False) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` if it is not before the last ``Answer:``, else that line's.

    hashes: a ``#### 72`` counts as an ``Answer:``.
    """
    patterns = (_ANSWER_LINE, _HASH_LINE) if hashes else (_ANSWER_LINE,)
    lines = [match for match in (_last_match(pattern, text) for pattern in patterns) if match]
    if not lines:
        return last_boxed(text)
    line = max(lines, key=lambda match: match.start())
    boxed = last_boxed(text, after=line.start())
    return _line_content(line) if boxed is None else boxed


def _line_content(line: re.Match[str]) -> str:
    content = _FEW_SHOT_END.sub("", line[1]).strip()
    if content in _DISPLAY:
        return line.string[line.end() : line.end() + ANSWER_WINDOW].partition(_DISPLAY[content])[0].strip()
    return content


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text, max(0, len(text) - ANSWER_WINDOW)))
    return matches[-1] if matches else None


class _Box(NamedTuple):
    command: int  # where \boxed begins
    start: int  # where its content begins
    end: int  # where its content ends
    after: int  # where what follows begins


def last_boxed(text: str, *, after: int = 0) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` whose braces balance, or None. Takes linear time.

    after: where the box must not have ended yet. Boxes that are joined by "or", commas and the like are returned
    together, as a list.
    """
    boxes = [box for box in _boxes(text) if box.end >= after]
    if not boxes:
        return None
    last = max(boxes, key=lambda box: box.start)
    contents = [text[last.start : last.end].strip()]
    if not contents[0]:
        return ""
    if (taken_back := _TAKEN_BACK.match(text, last.after)) is not None:
        return None if taken_back["wrong"] else f"{contents[0]} or {taken_back['other']}"
    first = last
    for box in sorted(boxes, key=lambda box: box.end, reverse=True):
        if box.end >= first.command:
            continue
        if not _joins(text[box.after : first.command]):
            break
        contents.append(text[box.start : box.end].strip())
        first = box
    return ", ".join(dict.fromkeys(reversed(contents)))


def _boxes(text: str) -> list[_Box]:
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
    return found


def _joins(between: str) -> bool:
    """Whether what stands between two boxes leaves both as an answer."""
    if len(between) > _MOST_BETWEEN or re.search(
        r"[0-9=<>+*/^]|\\[({]", between.replace(r"\(", "").replace(r"\)", "")
    ):
        return False
    return all(_JOINING_WORD.fullmatch(word) for word in re.findall("[a-z]+", between.lower()))
