"""A split into training and validation problems with near duplicates on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasoner_rl.datasets.contamination import NEAR, near_form
from reasoner_rl.datasets.near import similar_pairs
from reasoner_rl.datasets.wording import choose_families, connected
from reasoner_rl.errors import DataError


def validation_rows(texts: Sequence[str], count: int, seed: int, near: float = NEAR) -> list[int]:
    """Numbers of ``count`` problems for validation, in order; the same seed gives the same.

    What a chain of near duplicates connects (`contamination`: number-blind, so also the same problem with other
    numbers) is one family, and a family is on one side. Raises DataError if the families do not leave room.
    """
    forms = near_form(texts)
    pairs = ((left, right) for left, right, _ in similar_pairs(forms, forms, near) if left < right)
    head_of = connected(range(len(texts)), pairs)
    sizes = Counter(head_of.values())
    chosen, missing = choose_families(sizes, sizes, count, seed)
    if missing or len(chosen) == len(sizes):
        raise DataError(
            f"--validation {count}: of {len(texts):,} problems in {len(sizes):,} families of near duplicates, the "
            f"largest of {max(sizes.values()):,}, no {count:,} can be held out so that training problems are left and "
            "no family is divided"
        )
    return [number for number in range(len(texts)) if head_of[number] in chosen]
