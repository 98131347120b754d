"""What is made of scored answers: pairs, labels, scores and worked examples, by hand."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from reasoner_rl.prompts.making import (
    complete_answers,
    examples_of_group,
    labels_by_score,
    labels_of_group,
    pairs_of_group,
    scores_of_group,
)
from reasoner_rl.prompts.read import Problem
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

PROBLEM = Problem("set/0", ({"role": "user", "content": "1+1?"},), "2", "sums", {"level": 3})
Answer = tuple[str, float, float | None, str | None]


def group(*answers: Answer, cut: str = "") -> ScoredGroup:
    """A group of (text, score, accuracy, extracted answer); the one whose text is ``cut`` met the limit."""
    reasons: list[Literal["stop", "length"]] = ["length" if text == cut else "stop" for text, *_ in answers]
    return ScoredGroup(
        Prompt("set/0", (1,), "1+1?", "2", "sums"),
        tuple(
            Rollout(range(len(text)), [0.0] * len(text), reason, 0, text)
            for (text, *_), reason in zip(answers, reasons, strict=True)
        ),
        tuple(Reward(score, accuracy, {}, extracted=found) for _, score, accuracy, found in answers),
    )


MIXED = group(
    ("two", 0.9, 1.0, "2"),
    ("three", -1.0, 0.0, "3"),
    ("it is 2", 1.0, 1.0, "2"),
    ("two", 0.9, 1.0, "2"),
    ("2 and so on", 2.0, 1.0, "2"),
    (" ", -1.0, 0.0, None),
    ("4", -1.5, 0.0, "4"),
    cut="2 and so on",
)


def test_answers_that_are_cut_off_empty_or_repeated_are_left_out() -> None:
    assert [rollout.text for rollout, _ in complete_answers(MIXED)] == ["two", "three", "it is 2", "4"]


def test_pairs() -> None:
    [row] = pairs_of_group(MIXED, PROBLEM, "best_worst", 0.0)
    assert row == {
        "prompt": [{"role": "user", "content": "1+1?"}],
        "chosen": "it is 2",
        "rejected": "4",
        "chosen_score": 1.0,
        "rejected_score": -1.5,
        "uid": "set/0",
    }
    pairs = [(row["chosen"], row["rejected"]) for row in pairs_of_group(MIXED, PROBLEM, "all", 0.4)]
    assert pairs == [
        *(("it is 2", "three"), ("it is 2", "4"), ("two", "three"), ("two", "4"), ("three", "4")),
    ], "1.0 and 0.9 are too near"
    assert pairs_of_group(MIXED, PROBLEM, "best_worst", 2.5) == [], "the difference must be above the margin"
    assert pairs_of_group(group(("a", 1.0, 1.0, None)), PROBLEM, "best_worst", 0.0) == []
    assert pairs_of_group(group(("a", 1.0, 1.0, None), cut="a"), PROBLEM, "all", 0.0) == []


def test_labels_and_scores() -> None:
    unknown = group(("a", 0.5, None, None), ("b", 1.0, 1.0, None), ("c", 0.7, 0.5, None))
    labels = [(row["completion"], row["label"]) for row in labels_of_group(unknown, PROBLEM)]
    assert labels == [("b", True), ("c", False)], "what is not known has no label"
    scored = group(
        ("a", 3.0, None, None), ("b", 1.0, 1.0, None), ("c", 2.0, None, None), ("d", 2.5, None, None), cut="d"
    )
    labels = [(row["completion"], row["label"]) for row in labels_by_score(scored, PROBLEM)]
    assert labels == [("a", True), ("b", False), ("c", False)], (
        "above the mean of 2, whatever the verifier found"
    )
    assert labels_by_score(group(("a", 2.0, 1.0, None), ("b", 2.0, 0.0, None)), PROBLEM) == []
    scores = [(row["completion"], row["reward"]) for row in scores_of_group(unknown, PROBLEM)]
    assert scores == [("a", 0.5), ("b", 1.0), ("c", 0.7)]


def test_worked_examples_are_right_answers() -> None:
    def texts(count: int, choice: Literal["first", "shortest", "diverse"], seed: int = 0) -> list[str]:
        return [row["solution"] for row in examples_of_group(MIXED, PROBLEM, count, choice, None, seed)]

    assert texts(1, "first") == ["two"]
    assert texts(9, "shortest") == ["two", "it is 2"]
    assert texts(1, "shortest") == ["two"]
    drawn = [texts(1, "diverse", seed)[0] for seed in range(8)]
    assert set(drawn) == {"two", "it is 2"}
    assert drawn == [texts(1, "diverse", seed)[0] for seed in range(8)], "the seed decides"
    [row] = examples_of_group(MIXED, PROBLEM, 1, "first", None, 0)
    assert row["reward_model"] == {"ground_truth": "2"}
    assert (row["data_source"], row["extra_info"]) == ("sums", {"level": 3})


@pytest.mark.parametrize(
    ("share", "texts"), [(0.5, ["two", "it is 2"]), (4 / 7, ["two", "it is 2"]), (0.6, [])]
)
def test_worked_examples_on_which_most_responses_agree(share: float, texts: list[str]) -> None:
    """Four of the seven responses say 2; one of them was cut off, and has a vote all the same."""
    rows = examples_of_group(MIXED, PROBLEM, 9, "first", share, 0)
    assert [row["solution"] for row in rows] == texts


def test_a_share_that_is_just_reached_counts_and_of_equal_votes_the_first() -> None:
    others = [(f"say {number}", 0.0, 0.0, f"answer {number}") for number in range(18)]
    group_of_25 = group(*others, *((f"so {number}", 1.0, 1.0, "2") for number in range(7)))
    assert 0.28 * 25 > 7, "what a product of the share would be compared with"
    assert len(examples_of_group(group_of_25, PROBLEM, 25, "first", 0.28, 0)) == 7
    assert examples_of_group(group_of_25, PROBLEM, 25, "first", 0.29, 0) == []
    tie = group(("x", 0.0, 0.0, "3"), ("y", 1.0, 1.0, "2"), ("z", 1.0, 1.0, "2"), ("w", 0.0, 0.0, "3"))
    assert [row["solution"] for row in examples_of_group(tie, PROBLEM, 9, "first", 0.5, 0)] == ["x", "w"]


def test_agreement_does_not_look_at_what_is_right() -> None:
    wrong = group(("x", -1.0, 0.0, "3"), ("y", -1.0, 0.0, "3"), ("z", 1.0, 1.0, "2"))
    assert [row["solution"] for row in examples_of_group(wrong, PROBLEM, 9, "first", 0.5, 0)] == ["x", "y"]
    assert examples_of_group(group(("x", -1.0, 0.0, None)), PROBLEM, 9, "first", 0.0, 0) == []


@pytest.mark.parametrize("status", ["timeout", "crash", "undecided"])
def test_answers_that_were_not_judged_are_left_out(status: str) -> None:
    judged = group(("a", 1.0, 1.0, "2"), ("b", -1.0, 0.0, None))
    failed = dataclasses.replace(
        judged, rewards=(judged.rewards[0], dataclasses.replace(judged.rewards[1], status=status))
    )
    assert len(labels_of_group(judged, PROBLEM)) == 2
    assert [row["completion"] for row in labels_of_group(failed, PROBLEM)] == ["a"]
