"""Which extracted answers count as one, by the real verifier of mathematical answers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.prompts.read import Problem
from reasoner_rl.rewards.runner import RewardRunner, RewardTask
from reasoner_rl.sources.agreement import names_of_answers, with_one_name_per_answer
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup


def test_answers_that_the_verifier_finds_equal_have_one_name() -> None:
    texts = [r"\boxed{0.5}", r"\boxed{1}", r"\boxed{\frac{1}{2}}", "nothing", r"\boxed{1.0}", r"\boxed{1/2}"]
    extracted = ["0.5", "1", r"\frac{1}{2}", None, "1.0", "1/2"]
    prompt = Prompt("set/0", (1,), "x?", "7", "math")  # the ground truth plays no part
    group = ScoredGroup(
        prompt,
        tuple(Rollout([1], [0.0], "stop", 0, text) for text in texts),
        tuple(Reward(-1.0, 0.0, {}, extracted=found) for found in extracted),
    )
    config = RewardConfig.model_validate(
        {"functions": [{"fn": "reward_fns.math_answer:compute_score"}], "workers": 1}
    )
    problem = Problem("set/0", ({"role": "user", "content": "x?"},), "7", "math")
    with RewardRunner(config, 100) as rewards:
        [(same, renamed)] = with_one_name_per_answer([(problem, group)], rewards)
    assert same is problem
    assert [reward.extracted for reward in renamed.rewards] == ["0.5", "1", "0.5", None, "1", "0.5"]
    assert [reward.score for reward in renamed.rewards] == [-1.0] * 6
    assert renamed.rollouts == group.rollouts


class Judge:
    """Answers as a runner does whose verifier compares fractions, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def score(self, tasks: Sequence[RewardTask]) -> list[Reward]:
        """One judgement per task."""
        self.asked.append([(task.response, task.ground_truth) for task in tasks])
        same = [
            Fraction(task.response.removeprefix("It is ")) == Fraction(task.ground_truth) for task in tasks
        ]
        return [Reward(float(one), float(one), {}) for one in same]


def group_of(number: int, answers: Sequence[str | None]) -> ScoredGroup:
    return ScoredGroup(
        Prompt(f"set/{number}", (1,), "x?", "7", "math"),
        tuple(Rollout([1], [0.0], "stop", 0, f"It is {answer}") for answer in answers),
        tuple(Reward(0.0, 0.0, {}, extracted=answer) for answer in answers),
    )


def by_all_pairs(group: ScoredGroup) -> dict[str, str]:
    """The first answer that is the same, found by comparing with all."""
    answers = list(dict.fromkeys(one.extracted for one in group.rewards if one.extracted is not None))
    return {
        answer: next(earlier for earlier in answers if Fraction(earlier) == Fraction(answer))
        for answer in answers
    }


def test_the_groups_are_those_of_all_pairs_and_fewer_are_asked_about() -> None:
    draw = random.Random(0)
    written = ["1", "2/2", "3/3", "1/2", "2/4", "0.5", "2", "4/2", "7", None]
    groups = [group_of(number, draw.choices(written, k=draw.randint(1, 16))) for number in range(50)]
    judge = Judge()
    names = names_of_answers(groups, cast(RewardRunner, judge))
    expected = [by_all_pairs(group) for group in groups]
    assert names == expected
    calls = [len(set(list(of_group.values())[:n])) for of_group in expected for n in range(len(of_group))]
    assert sum(map(len, judge.asked)) == sum(calls)
    assert sum(calls) < sum(math.comb(len(of_group), 2) for of_group in expected)


def test_what_is_asked_and_in_which_order() -> None:
    judge = Judge()
    groups = [group_of(0, ["1", "2", "2/2", "1", "3"]), group_of(1, [None, "4", "5"]), group_of(2, [None])]
    assert names_of_answers(groups, cast(RewardRunner, judge)) == [
        {"1": "1", "2": "2", "2/2": "1", "3": "3"},
        {"4": "4", "5": "5"},
        {},
    ]
    assert judge.asked == [
        [("It is 2", "1"), ("It is 5", "4")],
        [("It is 2/2", "1"), ("It is 2/2", "2")],
        [("It is 3", "1"), ("It is 3", "2")],
    ]
    wrong = [str(number) for number in range(32)]
    judge = Judge()
    assert names_of_answers([group_of(0, wrong)], cast(RewardRunner, judge)) == [
        dict(zip(wrong, wrong, strict=True))
    ]
    assert [len(asked) for asked in judge.asked] == list(range(1, 32)), "496 pairs in all"
