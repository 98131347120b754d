"""Minus the share of a response that repeats itself word for word.

After the repetition penalty of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, section 4),
which punishes every token of an n-gram that was there before. Here the punished words are counted and divided by all
words, so that the penalty is between 0 and 1 whatever the length. Without it, rewards for length are got by repeating.
"""

from __future__ import annotations

from typing import Any


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    n: int = 20,
) -> float:
    """Return from 0, no n words in a row come twice, down to nearly -1. ``n``: short ones repeat in any good proof."""
    return -repeated_share(solution_str.lower().split(), n)


def repeated_share(words: list[str], n: int) -> float:
    """The share of ``words`` inside a run of ``n`` words that occurred before. Raises ValueError if n < 1."""
    if n < 1:
        raise ValueError(f"n must be at least 1; it is {n}")
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    counted_to = 0  # words before this one have been counted
    for start in range(len(words) - n + 1):
        run = tuple(words[start : start + n])
        if run in seen:
            repeated += start + n - max(start, counted_to)
            counted_to = start + n
        seen.add(run)
    return repeated / len(words) if words else 0.0
