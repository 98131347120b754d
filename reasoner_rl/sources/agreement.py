"""Which of a group's extracted answers are the same answer, by the verifier's own judgement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        (names,) = names_of_answers([group], rewards)
        renamed = tuple(
            reward
            if reward.extracted is None
            else dataclasses.replace(reward, extracted=names[reward.extracted])
            for reward in group.rewards
        )
        yield problem, dataclasses.replace(group, rewards=renamed)


def names_of_answers(groups: Sequence[ScoredGroup], rewards: RewardRunner) -> list[Mapping[str, str]]:
    """For each group, from each extracted answer to the first one that is the same, as above; judged all at once."""
    found = [_first_responses(group) for group in groups]
    pairs = [list(combinations(answers, 2)) for answers in found]
    tasks = [
        dataclasses.replace(reward_task(group.prompt, answers[later]), ground_truth=earlier)
        for group, answers, of_group in zip(groups, found, pairs, strict=True)
        for earlier, later in of_group
    ]
    judged = iter(rewards.score(tasks) if tasks else ())
    named: list[Mapping[str, str]] = []
    for answers, of_group in zip(found, pairs, strict=True):
        verdicts = {pair: next(judged).accuracy for pair in of_group}
        names: dict[str, str] = {}
        for answer in answers:
            same = [earlier for earlier in names if (verdicts[earlier, answer] or 0.0) >= 1]
            names[answer] = names[same[0]] if same else answer
        named.append(names)
    return named


def _first_responses(group: ScoredGroup) -> dict[str, Rollout]:
    """The first response with each extracted answer, in order."""
    found: dict[str, Rollout] = {}
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        if reward.extracted is not None:
            found.setdefault(reward.extracted, rollout)
    return found
