from __future__ import annotations

import pytest

from reasoner_rl.advantages.filters import filter_groups, teaches


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([1.0, 0.0, 0.0], True),
        ([1.0, 1.0, 0.0], True),
        ([1.0, 1.0, 1.0], False),
        ([0.0, 0.0, 0.0], False),
        ([0.5, 0.5, 0.5], True),  # neither all right nor all wrong
        ([0.0, 0.2, 0.0], True),
    ],
)
def test_which_groups_teach(scored_group, accuracies, expected):
    assert teaches(scored_group(accuracies)) is expected


def test_the_raw_accuracy_decides_and_not_the_shaped_score(scored_group):
    assert not filter_groups([scored_group([-1.0, -1.4, -2.0], accuracies=[0.0, 0.0, 0.0])]).kept
    assert filter_groups([scored_group([1.0, 1.0], accuracies=[1.0, 0.0])]).kept


def test_filtering_keeps_the_order(scored_group):
    mixed, right, wrong, mixed_too = (scored_group(scores) for scores in ([1, 0], [1, 1], [0, 0], [0, 1]))
    kept, all_right, all_wrong, alike = filter_groups([mixed, right, wrong, mixed_too])
    assert kept == [mixed, mixed_too]
    assert all_right == [right]
    assert all_wrong == [wrong]
    assert alike == []


@pytest.mark.parametrize(
    ("scores", "penalties", "kept"),
    [
        ([1.0, 0.1, 0.2], [0.0, 0.0, 0.0], True),  # partial credit: 1 if right, else 0.1 to 0.2
        ([0.1, 0.2, 0.15], [0.0, 0.0, 0.0], True),
        ([-1.9, -1.8, -1.9], [0.0, 0.0, 0.0], True),
        ([0.2, 0.2, 0.2], [0.0, 0.0, 0.0], False),
        ([0.1, 0.1, 0.1], [0.0, -0.37, -1.0], False),  # differ by the penalty for length alone
        ([0.1, 0.2, 0.1], [0.0, -0.1, 0.0], True),
    ],
)
def test_where_accuracy_is_not_known_the_scores_decide(scored_group, scores, penalties, kept):
    group = scored_group(scores, accuracies=[None] * 3, penalties=penalties)
    assert filter_groups([group]) == (([group], [], [], []) if kept else ([], [], [], [group]))


def test_one_unknown_accuracy_makes_the_scores_decide(scored_group):
    """A failure counts as wrong also where the function tells no accuracy."""
    assert filter_groups([scored_group([-1.0, 0.5, 0.5], accuracies=[0.0, None, None])]).kept
    assert filter_groups([scored_group([0.5, 0.5], accuracies=[0.0, None])]).alike


def test_filtering_of_nothing():
    assert filter_groups([]) == ([], [], [], [])
