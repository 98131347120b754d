"""Which answers to a problem are the same by the verifier's own equality, and not only by their text: 1/2 and 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.generate import reward_task
from reasoner_rl.types import ScoredGroup


def equal_answers(groups: Sequence[ScoredGroup], rewards: RewardRunner) -> list[list[str | None]]:
    """The answer of each response as the first answer to its problem that equals it; [groups][responses].

    Right answers equal the ground truth, and so each other. Of two wrong ones that differ in text the verifier is asked
    whether the later response would be right if the ground truth were the earlier answer. None stays: no answer found.
    """
    first_places = [_first_places(group) for group in groups]
    pairs = [
        (number, earlier, later)
        for number, places in enumerate(first_places)
        for later in places
        for earlier in places
        if places[earlier] < places[later]
    ]
    tasks = []
    for number, earlier, later in pairs:
        group = groups[number]
        task = reward_task(group.prompt, group.rollouts[first_places[number][later]])
        tasks.append(replace(task, ground_truth=earlier))
    judged = zip(pairs, rewards.score(tasks), strict=True)
    same = {pair for pair, reward in judged if reward.accuracy == 1}
    return [_merged(number, group, first_places[number], same) for number, group in enumerate(groups)]


def _first_places(group: ScoredGroup) -> dict[str, int]:
    """Wrong answer -> number of the first response that gave it, in the order of responses."""
    places: dict[str, int] = {}
    for number, reward in enumerate(group.rewards):
        if reward.extracted is not None and reward.accuracy != 1:
            places.setdefault(reward.extracted, number)
    return places


def _merged(
    number: int, group: ScoredGroup, places: dict[str, int], same: set[tuple[int, str, str]]
) -> list[str | None]:
    stands_for: dict[str, str] = {}
    for answer in places:
        equal = (first for first in dict.fromkeys(stands_for.values()) if (number, first, answer) in same)
        stands_for[answer] = next(equal, answer)
    right = next((reward.extracted for reward in group.rewards if reward.accuracy == 1), None)
    return [
        None if reward.extracted is None else right if reward.accuracy == 1 else stands_for[reward.extracted]
        for reward in group.rewards
    ]
