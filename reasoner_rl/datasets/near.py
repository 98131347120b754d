"""Near duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3), with the package datasketch.

Hashing finds candidates, and each is compared exactly: a pair that is yielded has the similarity that is asked for. A
pair of just that similarity may be missed; the parameters are chosen so that few are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reasoner_rl.errors import require_package

PERMUTATIONS = 128
_MISSES_COUNT = (0.1, 0.9)  # weights of false candidates, which cost time alone, and of missed pairs
_WIDER = 0.1  # candidates are looked for below the threshold, so that few pairs at it are missed

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


def similar_pairs(
    left: Sequence[Shingles], right: Sequence[Shingles], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Numbers of a set of ``left`` and one of ``right`` whose Jaccard similarity is at least ``threshold``, and it.

    ``left`` and ``right`` may be the same list, which then pairs every set with itself too. Raises MissingExtraError
    without datasketch.
    """
    require_datasketch()
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=max(0.1, threshold - _WIDER), num_perm=PERMUTATIONS, weights=_MISSES_COUNT)

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
