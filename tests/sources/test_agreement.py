"""Which extracted answers count as one, by the real verifier of mathematical answers."""

from __future__ import annotations

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.prompts.read import Problem
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.agreement import with_one_name_per_answer
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
