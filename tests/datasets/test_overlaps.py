"""What two problems have in common: rules against cases worked by hand, near duplicates against all pairs."""

from __future__ import annotations

import itertools
import random

import pytest

from reasoner_rl.config.data import DAPO_PROMPT
from reasoner_rl.datasets.contamination import KINDS, PHRASE_EVALUATION, PHRASE_TRAIN, find_overlaps
from reasoner_rl.datasets.near import bands, jaccard, shingles, similar_pairs
from reasoner_rl.datasets.split import validation_rows
from reasoner_rl.datasets.wording import bare, without_layout, without_numbers, words_of
from reasoner_rl.errors import DataError

pytest.importorskip("datasketch", reason="the extra data is not installed")


@pytest.mark.parametrize(
    ("left", "right", "same", "same_but_numbers"),
    [
        ("Find $x+1$.", "find \\(x + 1\\)", True, True),
        ("Find $x+1$.", "Find $x-1$.", False, False),
        ("Find $\\left(\\dfrac{1}{2}\\right)^2$", "Find $(\\frac{1}{2})^2$", True, True),
        ("Find \\leftarrow", "Find arrow", False, False),
        ("Add 3 and 4.", "Add 12 and 1,000.5!", False, True),
        ("Add 3 and 4.", "Add thirty-four and two hundred six.", False, True),
        ("x = 5-3", "x = 9-1", False, True),
        ("x = 5-3", "x = 9", False, False),
        ("Ｆｕｌｌ ｗｉｄｔｈ", "full width", True, True),
        ("tone", "t1", False, False),  # no number word within a word
    ],
)
def test_texts_without_layout_and_numbers(left: str, right: str, same: bool, same_but_numbers: bool) -> None:
    assert (without_layout(left) == without_layout(right)) is same
    assert (without_numbers(left) == without_numbers(right)) is same_but_numbers


def test_words_are_those_of_gpt3s_rule() -> None:
    assert words_of("It's $1.5$, or \\frac{1}{2}: $x_1$!") == [
        "it",
        "s",
        "1.5",
        "or",
        "frac",
        "1",
        "2",
        "x",
        "1",
    ]
    assert words_of("He has thirty-four of 7 #1", numbers=False) == ["he", "has", "#", "of", "#", "#"]


def test_instructions_are_taken_off() -> None:
    assert bare(DAPO_PROMPT.replace("{problem}", "What is 1+1?")) == "What is 1+1?"
    assert bare("2+2? Let's think step by step and output the final answer within \\boxed{}.") == "2+2?"
    assert bare("What is 1+1?") == "What is 1+1?"
    assert bare(DAPO_PROMPT.replace("{problem}", "")) != ""


def sentence(*words: int | str) -> str:
    return " ".join(
        f"word{chr(97 + word // 26)}{chr(97 + word % 26)}" if isinstance(word, int) else word
        for word in words
    )


def test_each_pair_is_counted_under_the_strictest_rule() -> None:
    evaluation = [
        "What is $3 + 4$?",  # 0
        sentence(*range(40)),  # 1
        sentence(*range(100, 120)),  # 2
        "Anna has 3 red apples and 4 green pears in one basket. How many pieces of fruit has she?",  # 3
    ]
    train = [
        "what is \\(3+4\\)",  # exact with 0
        "What is $5 + 6$?",  # numbers with 0
        sentence(*range(200, 250), *range(13), *range(250, 300)),  # 13 words of 1
        sentence(*range(200, 250), *range(12), *range(250, 300)),  # 12 words: nothing
        sentence(
            *range(100, 109), 400, *range(110, 120)
        ),  # near 2: runs of 9 and 10 words, too short for ngram
        "Anna has 8 red apples and 5 green pears in one basket. How many pieces of fruit does Anna have?",  # near 3
    ]
    found = find_overlaps(train, evaluation)
    assert [(pair.train, pair.evaluation, pair.kind) for pair in found.pairs] == [
        (0, 0, "exact"),
        (1, 0, "numbers"),
        (2, 1, "ngram"),
        (4, 2, "near"),
        (5, 3, "near"),
    ]
    # 18 runs of three words each, less the three that hold the exchanged word: 15 of 21 in all.
    assert found.pairs[3].similarity == pytest.approx(15 / 21)
    assert {kind: found.count(kind) for kind in KINDS} == {"exact": 1, "numbers": 0, "ngram": 1, "near": 2}
    assert (found.affected, found.evaluation, found.too_short) == (4, 4, 1)
    assert found.train() == {0, 1, 2, 4, 5}
    assert found.train(["exact", "ngram"]) == {0, 2}
    assert [pair.kind for pair in find_overlaps(train, evaluation, ngram=12).pairs if pair.train == 3] == [
        "ngram"
    ]


def test_phrases_that_many_problems_have_are_no_overlap() -> None:
    phrase = sentence(*range(13))
    evaluation = [f"{phrase} {sentence(*range(100, 160))}"]

    def trained(count: int) -> list[str]:
        return [f"{sentence(*range(200 + 40 * n, 240 + 40 * n))} {phrase}" for n in range(count)]

    assert len(find_overlaps(trained(PHRASE_TRAIN), evaluation).pairs) == PHRASE_TRAIN
    assert find_overlaps(trained(PHRASE_TRAIN + 1), evaluation).pairs == ()
    asked = trained(PHRASE_EVALUATION + 1)
    assert len(find_overlaps(evaluation, asked[:-1]).pairs) == PHRASE_EVALUATION
    assert find_overlaps(evaluation, asked).pairs == ()
    # One problem that a file has many times, with other answers or columns, makes no phrase of what it shares.
    assert len(find_overlaps(trained(1) * (PHRASE_TRAIN + 1), evaluation).pairs) == PHRASE_TRAIN + 1
    assert len(find_overlaps(evaluation, trained(1) * (PHRASE_EVALUATION + 1)).pairs) == PHRASE_EVALUATION + 1


def test_formulas_alone_are_not_near() -> None:
    assert find_overlaps(["12 + 7 - 4"], ["3 * 5 * 8", "1"]).pairs == ()
    assert [pair.kind for pair in find_overlaps(["12 + 7"], ["3 + 4"]).pairs] == ["numbers"]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_near_pairs_are_those_that_a_comparison_of_all_pairs_finds(threshold: float) -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(40):
        words = [f"w{rng.randrange(400)}" for _ in range(rng.randint(2, 40))]
        for _ in range(5):
            words = [word if rng.random() > 0.06 else f"w{rng.randrange(400)}" for word in words]
            texts.append(shingles(words, 3))
    expected = {
        (left, right)
        for left, right in itertools.product(range(200), repeat=2)
        if jaccard(texts[left], texts[right]) >= threshold
    }
    found = {(left, right): value for left, right, value in similar_pairs(texts, texts, threshold)}
    assert found.keys() <= expected
    assert all(value == jaccard(texts[left], texts[right]) for (left, right), value in found.items())
    assert len(expected) > 250
    assert len(expected - found.keys()) <= 0.02 * len(expected), "hashing may miss a few at the threshold"


def test_bands_by_hand() -> None:
    # 1 - (1 - 0.5^3)^42 = 0.9963, and with bands of 4 it would be 1 - (1 - 0.5^4)^32 = 0.87.
    assert bands(0.5) == (42, 3)
    assert bands(0.8) == (21, 6)  # 0.9983; bands of 7: 0.986
    assert bands(1.0) == (1, 128)
    assert bands(0.2) == (128, 1)


def test_shingles_of_short_texts() -> None:
    assert shingles(["a", "b"], 3) == {"a b"}
    assert shingles(["a", "b", "c", "d"], 3) == {"a b c", "b c d"}
    assert jaccard(frozenset(), frozenset()) == 0


def test_a_split_keeps_near_duplicates_on_one_side_and_repeats_with_its_seed() -> None:
    texts = [
        f"{sentence(*range(20 * n, 20 * n + 20))} with {number} and {number + 1} of them"
        for n in range(30)
        for number in (3, 71)
    ]
    held = validation_rows(texts, 20, seed=1)
    assert len(held) == 20
    assert all((number ^ 1) in held for number in held), (
        "the same problem with other numbers is on the same side"
    )
    assert held == validation_rows(texts, 20, seed=1)
    assert held != validation_rows(texts, 20, seed=2)
    with pytest.raises(DataError, match=r"--validation 21: of 60 problems in 30 families .* largest of 2"):
        validation_rows(texts, 21, seed=1)
    with pytest.raises(DataError, match="--validation 60"):
        validation_rows(texts, 60, seed=1)
