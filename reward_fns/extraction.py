"""Finding the final answer in a response."""

from __future__ import annotations

import re

_ANSWER_LINE = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

# The DAPO reference reads no further back, so that an answer must stand at the end of the response.
ANSWER_WINDOW = 300


def last_answer_line(text: str) -> str | None:
    """Return what follows the last ``Answer:`` within the last 300 characters, or None (arXiv 2503.14476)."""
    lines: list[str] = _ANSWER_LINE.findall(text[-ANSWER_WINDOW:])
    return lines[-1].strip() if lines else None


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
