"""DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): which groups are worth training on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasoner_rl.types import SAME_SCORE, ScoredGroup


class Filtered(NamedTuple):
    """Groups by whether they teach, each list in the order given."""

    kept: list[ScoredGroup]
    all_right: list[ScoredGroup]
    all_wrong: list[ScoredGroup]
    alike: list[ScoredGroup]  # accuracy is not known, and all scores are the same


def filter_groups(groups: Sequence[ScoredGroup]) -> Filtered:
    """Sort out the groups whose responses are all right or all wrong.

    Reads the raw accuracy, not the score: shaping, such as the penalty for overlong responses, makes scores
    differ within a group that is all wrong. In a group with a response whose accuracy is not known, the scores
    before that penalty decide: it is kept if they differ.
    """
    parts = Filtered([], [], [], [])
    for group in groups:
        accuracies = [reward.accuracy for reward in group.rewards]
        if None in accuracies:
            scores = [reward.unshaped_score for reward in group.rewards]
            differ = max(scores) - min(scores) > SAME_SCORE
            (parts.kept if differ else parts.alike).append(group)
        elif all(accuracy == 1 for accuracy in accuracies):
            parts.all_right.append(group)
        elif all(accuracy == 0 for accuracy in accuracies):
            parts.all_wrong.append(group)
        else:
            parts.kept.append(group)
    return parts


def teaches(group: ScoredGroup) -> bool:
    """Whether the filter keeps a group."""
    return bool(filter_groups([group]).kept)
