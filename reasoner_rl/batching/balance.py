"""Dividing sequences among ranks so that each has about the same number of tokens."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balance(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Divide sequences into ``parts`` lists of indices, of about equal total length.

    The largest differencing method of Karmarkar and Karp (1982): every sequence starts as a division of its own, one
    part holding it and all others empty; the two divisions whose parts differ most are merged again and again, the
    fullest part of one with the emptiest of the other. Lists may be empty where there are fewer sequences than parts.
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1; it is {parts}")
    if parts == 1:
        return [list(range(len(lengths)))]
    # (-spread, order of making, [(total, indices)] from the emptiest to the fullest)
    divisions = [
        (-length, index, [(0, list[int]())] * (parts - 1) + [(length, [index])])
        for index, length in enumerate(lengths)
    ]
    if not divisions:
        return [[] for _ in range(parts)]
    heapq.heapify(divisions)
    for made in range(len(lengths), 2 * len(lengths) - 1):
        _, _, first = heapq.heappop(divisions)
        _, _, second = heapq.heappop(divisions)
        merged = sorted(
            ((a + b, left + right) for (a, left), (b, right) in zip(first, reversed(second), strict=True)),
            key=lambda part: part[0],
        )
        heapq.heappush(divisions, (merged[0][0] - merged[-1][0], made, merged))
    [(_, _, division)] = divisions
    return [sorted(indices) for _, indices in division]
