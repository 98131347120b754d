"""A second verifier: which responses it judges, what it says of them, and that no reward depends on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.rewards.loading import MADE_UP_SAMPLE
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rewards.second_opinion import check_second_opinion, is_chosen
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

VERIFIERS = """
def first(data_source, solution_str, ground_truth, extra_info):
    return {"score": 2.0, "acc": solution_str == ground_truth, "pred": solution_str}

def lenient(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "raise":
        raise RuntimeError("as asked")
    if solution_str == "open":
        return {"score": 0.0, "acc": False, "status": "undecided"}
    return solution_str.strip() == ground_truth

def scoring(data_source, solution_str, ground_truth, extra_info):
    return 0.5
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("second") / "verifiers.py"
    path.write_text(VERIFIERS)
    return path


def config_of(plugin: Path, second: str, share: float = 1.0) -> RewardConfig:
    return RewardConfig.model_validate(
        {
            "functions": [{"fn": f"{plugin}:first"}],
            "workers": 1,
            "second_opinion": {"function": {"fn": f"{plugin}:{second}"}, "share": share},
        }
    )


def test_what_a_second_verifier_says_is_recorded_and_counted(plugin: Path) -> None:
    responses = ["42", " 42", "41", "raise", "open"]
    tasks = [RewardTask("made_up", response, "42") for response in responses]
    config = config_of(plugin, "lenient")
    with RewardRunner(config, 10) as runner:
        rewards = runner.score(tasks)
        held_out = runner.for_evaluation(10).score(tasks)
    assert [reward.second_opinion for reward in rewards] == ["right", "right", "wrong", "crash", "undecided"]
    assert [reward.disputed for reward in rewards] == [False, True, False, False, False]
    alone = [replace(reward, second_opinion=None) for reward in rewards]
    assert alone == held_out, "evaluations ask for none"
    with RewardRunner(config.model_copy(update={"second_opinion": None}), 10) as runner:
        assert runner.score(tasks) == alone, "scores do not depend on it"
    rollouts = tuple(Rollout((1,), (0.0,), "stop", 0, response) for response in responses)
    group = ScoredGroup(Prompt("uid", (1,), "text", "42", "made_up"), rollouts, tuple(rewards))
    found = values(reward_metrics([group]))
    assert found["reward/second_opinions"] == 5
    assert found["reward/second_opinion_disagreements"] == 1
    assert found["reward/second_opinion_failures"] == 1
    without = replace(group, rewards=tuple(alone))
    assert not any("second" in name for name in reward_metrics([without]))


def test_a_share_is_chosen_by_the_text(plugin: Path) -> None:
    tasks = [RewardTask("made_up", str(number), "42") for number in range(2000)]
    chosen = [is_chosen(task, 0.1) for task in tasks]
    assert 150 < sum(chosen) < 250, "five standard deviations are 67"
    assert chosen == [is_chosen(replace(task, group=3, response_tokens=9), 0.1) for task in tasks]
    assert all(is_chosen(task, 1.0) for task in tasks)
    few = tasks[:40]
    with RewardRunner(config_of(plugin, "lenient", share=0.1), 10) as runner:
        rewards = runner.score(few)
    assert [reward.second_opinion is not None for reward in rewards] == chosen[:40]


def test_a_second_verifier_must_say_whether_a_response_is_right(plugin: Path) -> None:
    check_second_opinion(config_of(plugin, "lenient"), MADE_UP_SAMPLE)
    with pytest.raises(
        ConfigError, match=r"^reward\.second_opinion: .*:scoring' returns a score without 'acc'"
    ):
        check_second_opinion(config_of(plugin, "scoring"), MADE_UP_SAMPLE)


def test_a_reward_is_disputed_only_where_both_have_decided() -> None:
    reward = Reward(1.0, None, {}, second_opinion="right")
    assert not reward.disputed
    assert not replace(reward, accuracy=1.0).disputed
    assert replace(reward, accuracy=0.5).disputed, "half right is not right, for the filter too"
    assert replace(reward, accuracy=1.0, second_opinion="wrong").disputed
    assert not replace(reward, accuracy=1.0, second_opinion="timeout").disputed
