"""Which training problems are, or are almost, problems of an evaluation set.

Four rules, from the strictest to the loosest; a pair of problems is counted under the first that holds:

    exact    the same text but for case, spaces and mathematical delimiters
    numbers  the same text with other numbers
    ngram    a run of 13 words in common, as in GPT-3 (arXiv:2005.14165, appendix C): lower case, no punctuation. Runs
             that more than ten different training problems have, or more than three evaluation problems, are phrases,
             such as "where m and n are relatively prime positive integers. Find m + n", and are not counted. Problems
             of fewer words have no such run.
    near     number-blind runs of 3 words with a Jaccard similarity of at least 0.5 (see `near`)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reasoner_rl.datasets.near import Shingles, shingles, similar_pairs
from reasoner_rl.datasets.wording import without_layout, without_numbers, words_of

Kind = Literal["exact", "numbers", "ngram", "near"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NGRAM = 13  # words
NEAR = 0.5  # Jaccard similarity
SHINGLE = 3  # words
PHRASE_TRAIN, PHRASE_EVALUATION = 10, 3  # a run that more problems have is a phrase


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem and a problem of the evaluation set, by their numbers, from 0."""

    train: int
    evaluation: int
    kind: Kind
    similarity: float | None = None  # of a near pair


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What one evaluation set has in common with the training problems."""

    pairs: tuple[Overlap, ...]  # each pair of problems once
    evaluation: int  # problems of the evaluation set
    too_short: int  # those of them that have fewer words than a run

    def train(self, kinds: Iterable[Kind] = KINDS) -> set[int]:
        """The training problems that overlap in one of these ways."""
        wanted = set(kinds)
        return {pair.train for pair in self.pairs if pair.kind in wanted}

    def count(self, kind: Kind) -> int:
        """How many problems of the evaluation set have this as their strongest overlap."""
        strongest: dict[int, int] = {}
        for pair in self.pairs:
            rank = KINDS.index(pair.kind)
            strongest[pair.evaluation] = min(rank, strongest.get(pair.evaluation, rank))
        return sum(KINDS[rank] == kind for rank in strongest.values())

    @property
    def affected(self) -> int:
        """How many problems of the evaluation set overlap in any way."""
        return len({pair.evaluation for pair in self.pairs})


def find_overlaps(
    train: Sequence[str], evaluation: Sequence[str], *, ngram: int = NGRAM, near: float = NEAR
) -> Overlaps:
    """Compare the texts of training problems with those of an evaluation set.

    ngram: words of a run. near: least Jaccard similarity. Raises MissingExtraError without datasketch.
    """
    found: dict[tuple[int, int], Overlap] = {}
    for pair in (
        *_equal(train, evaluation, "exact"),
        *_equal(train, evaluation, "numbers"),
        *_common_runs(train, evaluation, ngram),
        *_near(train, evaluation, near),
    ):
        found.setdefault((pair.train, pair.evaluation), pair)
    short = sum(len(words_of(text)) < ngram for text in evaluation)
    return Overlaps(tuple(sorted(found.values(), key=_order)), len(evaluation), short)


def _order(pair: Overlap) -> tuple[int, int, int]:
    return pair.train, KINDS.index(pair.kind), pair.evaluation


def _equal(
    train: Sequence[str], evaluation: Sequence[str], kind: Literal["exact", "numbers"]
) -> Iterator[Overlap]:
    form = without_layout if kind == "exact" else without_numbers
    holders: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(evaluation):
        holders[form(text)].append(number)
    for number, text in enumerate(train):
        for other in holders.get(form(text), ()):
            yield Overlap(number, other, kind)


def _common_runs(train: Sequence[str], evaluation: Sequence[str], ngram: int) -> Iterator[Overlap]:
    holders: dict[str, set[int]] = defaultdict(set)
    for number, text in enumerate(evaluation):
        for run in _runs(text, ngram):
            holders[run].add(number)
    met: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(train):
        for run in _runs(text, ngram):
            if run in holders:
                met[run].append(number)
    for run, numbers in met.items():
        if _few(train, numbers, PHRASE_TRAIN) and _few(evaluation, holders[run], PHRASE_EVALUATION):
            yield from (Overlap(number, other, "ngram") for number in numbers for other in holders[run])


def _few(texts: Sequence[str], numbers: Collection[int], most: int) -> bool:
    """Whether these are at most so many different texts: a problem that a file repeats makes no phrase of its runs."""
    return len(numbers) <= most or len({texts[number] for number in numbers}) <= most


def _runs(text: str, ngram: int) -> Shingles:
    words = words_of(text)
    return shingles(words, ngram) if len(words) >= ngram else frozenset()


def _near(train: Sequence[str], evaluation: Sequence[str], threshold: float) -> Iterator[Overlap]:
    for number, other, similarity in similar_pairs(near_form(train), near_form(evaluation), threshold):
        yield Overlap(number, other, "near", similarity)


def near_form(texts: Iterable[str]) -> list[Shingles]:
    """What near duplicates are compared by: the number-blind runs of `SHINGLE` words of each text.

    Runs of numbers alone are left out: without its numbers and signs, one formula is like any other.
    """
    runs = (shingles(words_of(text, numbers=False), SHINGLE) for text in texts)
    return [frozenset(run for run in of_text if run.strip("# ")) for of_text in runs]
