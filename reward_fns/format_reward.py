"""Whether a response keeps to a format of tags, such as ``<think>...</think><answer>...</answer>`` (arXiv 2501.12948).

It says nothing about the answer: sum it with a verifier, which stands first in ``reward.functions``, for accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    tags: Sequence[str] = ("think", "answer"),
    opened: bool = False,
    outside: bool = False,
    right_score: float = 1.0,
    wrong_score: float = 0.0,
) -> dict[str, Any]:
    """Return ``score``: ``right_score`` for a response in the format, else ``wrong_score``; and ``acc`` (bool).

    ``tags``: their names, in order. ``opened``: the prompt ends with the first opening tag, as in chat templates that
    start the thinking. ``outside``: text before, between and after the tags is allowed.
    """
    text = f"<{tags[0]}>{solution_str}" if opened and tags else solution_str
    right = in_format(text, tags, outside)
    return {"score": right_score if right else wrong_score, "acc": right}


def in_format(text: str, tags: Sequence[str], outside: bool = False) -> bool:
    """Whether every tag is opened and closed once, in order, with something in it, and all else is white space."""
    place = 0  # behind the last closing tag
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start, end = text.index(opening), text.index(closing)
        if start < place or not text[start + len(opening) : end].strip():
            return False  # also where it is closed before it is opened
        if not outside and text[place:start].strip():
            return False
        place = end + len(closing)
    return outside or not text[place:].strip()
