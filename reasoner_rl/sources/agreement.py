"""Which of a group's extracted answers are the same answer, by the verifier's own judgement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from reasoner_rl.prompts.read import Problem
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.sources.generate import reward_task
from reasoner_rl.types import Rollout, ScoredGroup

ProblemGroup = tuple[Problem, ScoredGroup]


def with_one_name_per_answer(groups: Iterable[ProblemGroup], rewards: Rewards) -> Iterator[ProblemGroup]:
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


def names_of_answers(groups: Sequence[ScoredGroup], rewards: Rewards) -> list[Mapping[str, str]]:
    """For each group, from each extracted answer to its name: the first name that it is the same as, or itself.

    The n-th different answers of all groups are judged at once, and each against the names that its group has by then:
    n (n - 1) / 2 judgements for a group of n answers that are all different, and fewer otherwise. Where equality as the
    reward functions see it is not transitive, as with tolerances, an answer joins what is the same as the name.
    """
    found = [_first_responses(group) for group in groups]
    named: list[dict[str, str]] = [{} for _ in groups]
    for number in range(max(map(len, found), default=0)):
        asked = [
            (group, names, list(dict.fromkeys(names.values())), *answers[number])
            for group, names, answers in zip(groups, named, found, strict=True)
            if number < len(answers)
        ]
        # The tasks of one response follow one another: verifiers may keep what they have read of the last one.
        tasks = [
            dataclasses.replace(reward_task(group.prompt, response), ground_truth=name)
            for group, _, known, _, response in asked
            for name in known
        ]
        judged = iter(rewards.score(tasks) if tasks else ())
        for _, names, known, answer, _ in asked:
            same = [name for name in known if (next(judged).accuracy or 0.0) >= 1]
            names[answer] = same[0] if same else answer
    return list(named)


def _first_responses(group: ScoredGroup) -> list[tuple[str, Rollout]]:
    """Each extracted answer with the first response that has it, in order."""
    found: dict[str, Rollout] = {}
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        if reward.extracted is not None:
            found.setdefault(reward.extracted, rollout)
    return list(found.items())
