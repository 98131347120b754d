"""Near duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3), with the package datasketch.

Hashing finds candidates, and each is compared exactly: a pair that is yielded has at least the least similarity. A
pair of just that similarity is missed once in 200 times, and more similar ones more rarely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reasoner_rl.errors import require_package

PERMUTATIONS = 128
FOUND = 0.995  # probability with which a pair of just the least similarity is found

Shingles = frozenset[str]


def require_datasketch() -> None:
    """Raise MissingExtraError without datasketch."""
    require_package("datasketch", "datasketch", "data", "the search for near duplicates")


def shingles(words: Sequence[str], size: int) -> Shingles:
    """All runs of ``size`` words of a text; of a shorter text its words together."""
    return frozenset(" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1)))


def jaccard(left: Shingles, right: Shingles) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    common = len(left & right)
    return common / (len(left) + len(right) - common) if common else 0.0


def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many hashes are compared: the longest bands that find a pair with probability `FOUND`.

    Of b bands of r hashes, one agrees with probability 1 - (1 - s^r)^b for a pair of similarity s.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= FOUND:
            return count, rows
    return PERMUTATIONS, 1


def similar_pairs(
    left: Sequence[Shingles], right: Sequence[Shingles], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Numbers of a set of ``left`` and one of ``right`` whose Jaccard similarity is at least ``threshold``, and it.

    ``left`` and ``right`` may be the same list, which then pairs every set with itself too. Raises MissingExtraError
    without datasketch.
    """
    require_datasketch()
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))

    def hashes(sets: Sequence[Shingles]) -> Iterator[MinHash]:
        encoded = ([text.encode() for text in one] for one in sets)
        return MinHash.generator(encoded, num_perm=PERMUTATIONS)

    for number, minhash in enumerate(hashes(right)):
        index.insert(number, minhash)
    for number, minhash in enumerate(hashes(left)):
        for other in sorted(index.query(minhash)):
            similarity = jaccard(left[number], right[other])
            if similarity >= threshold:
                yield number, other, similarity
