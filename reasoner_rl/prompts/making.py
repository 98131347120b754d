"""From scored answers to data to learn from: pairs, labels, scores and worked examples, as rows of JSON.

The rows are in the formats that `reasoner_rl.prompts.judged` and, for worked examples, `reasoner_rl.prompts.read` read.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from reasoner_rl.prompts.read import Problem
from reasoner_rl.types import Reward, Rollout, ScoredGroup

Row = dict[str, Any]
PairChoice = Literal["best_worst", "all"]
NOT_JUDGED = ("timeout", "crash", "undecided")  # statuses of rewards
ExampleChoice = Literal["first", "shortest", "diverse"]


def complete_answers(group: ScoredGroup) -> list[tuple[Rollout, Reward]]:
    """The different answers of a group that ended by themselves, say something and were judged, in their order.

    What was cut off at the limit is no answer to learn from: training adds an end of sequence. Of an answer whose
    judgement failed, or was not reached, nobody knows whether it is right.
    """
    found: dict[str, tuple[Rollout, Reward]] = {}
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        judged = reward.status not in NOT_JUDGED
        if rollout.finish_reason == "stop" and rollout.text.strip() and judged:
            found.setdefault(rollout.text, (rollout, reward))
    return list(found.values())


def pairs_of_group(group: ScoredGroup, problem: Problem, choice: PairChoice, margin: float) -> list[Row]:
    """Pairs of answers whose scores differ by more than ``margin``: the best and the worst, or all of them.

    Of answers with equal scores the first counts. The scores are in the rows too.
    """
    ranked = sorted(complete_answers(group), key=lambda answer: -answer[1].score)
    if choice == "best_worst":
        candidates = [(ranked[0], min(ranked, key=lambda answer: answer[1].score))] if ranked else []
    else:
        candidates = [(one, other) for place, one in enumerate(ranked) for other in ranked[place + 1 :]]
    return [
        {
            "prompt": [dict(message) for message in problem.messages],
            "chosen": chosen.text,
            "rejected": rejected.text,
            "chosen_score": better.score,
            "rejected_score": worse.score,
            "uid": problem.uid,
        }
        for (chosen, better), (rejected, worse) in candidates
        if better.score - worse.score > margin
    ]


def labels_of_group(group: ScoredGroup, problem: Problem) -> list[Row]:
    """Every answer with a label, true where the verifier found it right. Those of unknown accuracy are left out."""
    return [
        _row(problem, rollout) | {"label": reward.accuracy >= 1}
        for rollout, reward in complete_answers(group)
        if reward.accuracy is not None
    ]


def labels_by_score(group: ScoredGroup, problem: Problem) -> list[Row]:
    """Every answer with a label, true where its score is above the mean of the prompt's answers.

    Where all scores are the same none is better than others, and no row is made.
    """
    answers = complete_answers(group)
    if len({reward.score for _, reward in answers}) < 2:
        return []
    mean = fmean(reward.score for _, reward in answers)
    return [_row(problem, rollout) | {"label": reward.score > mean} for rollout, reward in answers]


def scores_of_group(group: ScoredGroup, problem: Problem) -> list[Row]:
    """Every answer with its score."""
    return [_row(problem, rollout) | {"reward": reward.score} for rollout, reward in complete_answers(group)]


def examples_of_group(
    group: ScoredGroup,
    problem: Problem,
    count: int,
    choice: ExampleChoice,
    agreement: float | None,
    seed: int,
) -> list[Row]:
    """Up to ``count`` answers as worked examples.

    agreement: None takes answers that are right. A share takes, without looking at what is right, those whose
    extracted answer is the most frequent one, if at least this share of the group's responses has it
    (self-consistency, arXiv 2203.11171).
    choice: the first ones; the shortest; or at random (diverse), by ``seed``.
    """
    answers = complete_answers(group)
    if agreement is None:
        kept = [
            rollout for rollout, reward in answers if reward.accuracy is not None and reward.accuracy >= 1
        ]
    else:
        majority = _majority(group.rewards, agreement)
        kept = [
            rollout for rollout, reward in answers if majority is not None and reward.extracted == majority
        ]
    if choice == "shortest":
        kept.sort(key=lambda rollout: len(rollout.token_ids))
    elif choice == "diverse":
        random.Random(f"{seed} {problem.uid}").shuffle(kept)
    return [
        {
            "data_source": problem.data_source,
            "prompt": [dict(message) for message in problem.messages],
            "reward_model": {"ground_truth": problem.ground_truth},
            "extra_info": dict(problem.extra_info),
            "solution": rollout.text,
        }
        for rollout in kept[:count]
    ]


def _row(problem: Problem, rollout: Rollout) -> Row:
    return {
        "prompt": [dict(message) for message in problem.messages],
        "completion": rollout.text,
        "uid": problem.uid,
    }


def _majority(rewards: Sequence[Reward], share: float) -> str | None:
    """The most frequent extracted answer, of several the one that was given first.

    None if fewer than this share of the responses have it, or if no response has an answer.
    """
    votes = Counter(reward.extracted for reward in rewards if reward.extracted is not None)
    if not votes:
        return None
    answer, count = votes.most_common(1)[0]
    # Not `count >= share * len(rewards)`: 0.28 * 25 is a little more than 7.
    return answer if count / len(rewards) >= share else None
