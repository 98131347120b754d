"""Finding the final answer in a response."""

from __future__ import annotations

import re

_ANSWER_LABEL = r"Answer[\s*]*[:：]"  # also **Answer**: and the colon of Chinese text
_ANSWER_LINE = re.compile(rf"(?i){_ANSWER_LABEL}\s*([^\n]+)")
# Not a Markdown heading of the fourth level, "#### Step 2" or "#### Answer: 72".
_HASH_LINE = re.compile(r"(?<!#)####[ \t]*(?![#A-Za-z\s])([^\n]+)")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

# The DAPO reference reads no further back, so that an answer must stand at the end of the response.
ANSWER_WINDOW = 300


def last_answer_line(text: str) -> str | None:
    """Return what follows the last ``Answer:`` within the last 300 characters, or None (arXiv 2503.14476)."""
    found = _last_match(_ANSWER_LINE, text)
    return None if found is None else found[1].strip()


def last_answer_or_hash_line(text: str) -> str | None:
    """Return what follows the last ``Answer:`` or ``####``, whichever is later, in the same window; or None."""
    found = [match for match in (_last_match(p, text) for p in (_ANSWER_LINE, _HASH_LINE)) if match]
    return max(found, key=lambda match: match.start())[1].strip() if found else None


def last_answer_or_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` if it is not before the last ``Answer:``, else that line's."""
    line = _last_match(_ANSWER_LINE, text)
    if line is None:
        return last_boxed(text)
    boxed = last_boxed(text[line.start() :])
    return line[1].strip() if boxed is None else boxed


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text, max(0, len(text) - ANSWER_WINDOW)))
    return matches[-1] if matches else None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` whose braces balance, or None. Takes linear time."""
    opened: list[
        tuple[int, bool]
    ] = []  # for each open brace: where its content starts, and whether it is a box
    start, end = -1, -1
    for token in _BOX_OR_BRACE.finditer(text):
        if token[0] == "}":
            content, is_box = opened.pop() if opened else (-1, False)
            if is_box and content > start:
                start, end = content, token.start()
        elif token[0].endswith("{") and token[0] != r"\{":
            opened.append((token.end(), token[0] != "{"))
    return None if start < 0 else text[start:end].strip()
