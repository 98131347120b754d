"""Answers are grouped by the verifier's equality: a real one, in its own processes."""

from __future__ import annotations

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.evaluation.estimators import majority_at_k
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.equal_answers import equal_answers
from reasoner_rl.sources.generate import reward_task
from reasoner_rl.types import Prompt, Rollout, ScoredGroup


def scored(rewards: RewardRunner, truth: str, responses: list[str]) -> ScoredGroup:
    prompt = Prompt("set/0", (1,), "?", truth, "math")
    rollouts = tuple(Rollout((1,), (0.0,), "stop", 0, text) for text in responses)
    tasks = [reward_task(prompt, rollout) for rollout in rollouts]
    return ScoredGroup(prompt, rollouts, tuple(rewards.score(tasks)))


def test_equal_answers_vote_together() -> None:
    config = RewardConfig(functions=[{"fn": "reward_fns.math_answer:compute_score"}], workers=1)
    with RewardRunner(config, 100) as rewards:
        wrong = [
            r"\boxed{\sqrt{8}}",
            r"\boxed{3}",
            r"\boxed{2\sqrt{2}}",
            "no answer",
            r"\boxed{x+1}",
            r"\boxed{1+x}",
        ]
        right = [r"\boxed{\sqrt{8}}", r"\boxed{9}", r"\boxed{9}", r"\boxed{2\sqrt{2}}", r"\boxed{\sqrt{4+4}}"]
        groups = [
            scored(rewards, "7", wrong),
            scored(rewards, r"\sqrt{8}", right),
            scored(rewards, "7", ["none"]),
        ]
        answers = equal_answers(groups, rewards)
    assert answers[0] == [r"\sqrt8", "3", r"\sqrt8", None, "x+1", "x+1"]
    assert answers[2] == [None]
    by_text = [reward.extracted for reward in groups[1].rewards]
    accuracies = [reward.accuracy or 0.0 for reward in groups[1].rewards]
    assert accuracies == [1, 0, 0, 1, 1]
    assert answers[1] == [r"\sqrt8", "9", "9", r"\sqrt8", r"\sqrt8"]
    assert majority_at_k(by_text, accuracies) == 0, "the texts of the right answers differ"
    assert majority_at_k(answers[1], accuracies) == 1
