"""Which of a group's extracted answers are the same answer, by the verifier's own judgement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import combinations

from reasoner_rl.prompts.read import Problem
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.generate import reward_task
from reasoner_rl.types import Rollout, ScoredGroup

ProblemGroup = tuple[Problem, ScoredGroup]


def with_one_name_per_answer(groups: Iterable[ProblemGroup], rewards: RewardRunner) -> Iterator[ProblemGroup]:
    """Give answers that are the same, such as 1/2 and 0.5, one text: that of the first response that has it.

    Two extracted answers are the same if the reward functions find a response with one of them right where the other is
    the ground truth.
    """
    for problem, group in groups:
        names = _names(group, rewards)
        renamed = tuple(
            reward
            if reward.extracted is None
            else dataclasses.replace(reward, extracted=names[reward.extracted])
            for reward in group.rewards
        )
        yield problem, dataclasses.replace(group, rewards=renamed)


def _names(group: ScoredGroup, rewards: RewardRunner) -> dict[str, str]:
    """From each extracted answer to the first one that is the same."""
    found: dict[str, Rollout] = {}
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        if reward.extracted is not None:
            found.setdefault(reward.extracted, rollout)
    pairs = list(combinations(found, 2))
    judged = rewards.score(
        [
            dataclasses.replace(reward_task(group.prompt, found[later]), ground_truth=earlier)
            for earlier, later in pairs
        ]
    )
    names: dict[str, str] = {}
    for answer in found:
        same = [
            earlier
            for (earlier, later), verdict in zip(pairs, judged, strict=True)
            if later == answer and verdict.accuracy is not None and verdict.accuracy >= 1
        ]
        names[answer] = names[same[0]] if same else answer
    return names
