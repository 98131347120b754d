"""Dividing by length: complete, even, and as good as the method is known to be."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_rl.batching.balance import balance


def totals(lengths: list[int], parts: list[list[int]]) -> list[int]:
    return sorted(sum(lengths[index] for index in part) for part in parts)


def test_the_textbook_example() -> None:
    """Karmarkar and Karp's differencing leaves a difference of 2 for these numbers; the greedy method leaves 4."""
    lengths = [8, 7, 6, 5, 4]
    assert totals(lengths, balance(lengths, 2)) == [14, 16]


def test_long_ones_are_spread() -> None:
    lengths = [100, 1, 1, 100, 1, 1, 100]
    assert totals(lengths, balance(lengths, 3)) == [101, 101, 102]


def test_fewer_sequences_than_parts() -> None:
    assert sorted(balance([3, 5], 4)) == [[], [], [0], [1]]
    assert balance([], 2) == [[], []]
    assert balance([4, 4, 4], 1) == [[0, 1, 2]]
    with pytest.raises(ValueError, match="parts must be at least 1; it is 0"):
        balance([1], 0)


@given(lengths=st.lists(st.integers(1, 1000), max_size=60), parts=st.integers(1, 9))
def test_every_sequence_is_in_exactly_one_part(lengths: list[int], parts: int) -> None:
    divided = balance(lengths, parts)
    assert len(divided) == parts
    assert sorted(index for part in divided for index in part) == list(range(len(lengths)))
    if lengths:
        assert max(totals(lengths, divided)) - min(totals(lengths, divided)) <= max(lengths)


def test_near_the_best_division_there_is() -> None:
    chooser = random.Random(0)
    excess = []
    for _ in range(20):
        lengths = [chooser.randint(1, 100) for _ in range(9)]
        best = min(
            max(
                sum(n for n, owner in zip(lengths, owners, strict=True) if owner == part) for part in range(3)
            )
            for owners in product(range(3), repeat=9)
        )
        excess.append(max(totals(lengths, balance(lengths, 3))) / best)
    assert max(excess) < 1.15
    assert sum(excess) / len(excess) < 1.04


def test_much_more_even_than_dealing_out() -> None:
    chooser = random.Random(1)
    lengths = [round(chooser.lognormvariate(6, 1)) for _ in range(512)]
    dealt = [list(range(rank, 512, 8)) for rank in range(8)]
    mean = sum(lengths) / 8
    assert max(totals(lengths, balance(lengths, 8))) / mean < 1.001
    assert max(totals(lengths, dealt)) / mean > 1.05
