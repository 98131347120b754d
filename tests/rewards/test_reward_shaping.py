"""The overlong penalty, the weighted sum and the metrics, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from reasoner_rl.config.reward import OverlongConfig, RewardFunctionConfig
from reasoner_rl.metrics import values
from reasoner_rl.rewards.contract import FunctionResult
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rewards.shaping import combine, failed_result, overlong_penalty
from reasoner_rl.types import FinishReason, Prompt, Reward, Rollout, ScoredGroup


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (30000, -1.0)],
)
def test_overlong_penalty_of_the_dapo_run(tokens: int, expected: float) -> None:
    assert overlong_penalty(tokens, 20480, 4096, 1.0) == expected
    assert overlong_penalty(tokens, 20480, 4096, 0.25) == expected / 4
    assert overlong_penalty(tokens, 20480, 0, 1.0) == 0.0


FIRST = RewardFunctionConfig(fn="a:right", weight=2.0)
SECOND = RewardFunctionConfig(fn="a:style", name="tone", weight=0.5, parameters={"wrong_score": 0.0})


def combined(
    *results: FunctionResult, tokens: int = 10, truncated: bool = False, mask_truncated: bool = False
) -> Reward:
    return combine(
        results,
        [FIRST, SECOND],
        OverlongConfig(buffer_tokens=20, penalty=1.0, mask_truncated=mask_truncated),
        response_tokens=tokens,
        max_response_tokens=100,
        truncated=truncated,
    )


def test_combine_weighs_and_names_every_part() -> None:
    right = FunctionResult(1.0, 1.0, "42", {"steps": 3.0})
    reward = combined(right, FunctionResult(0.5, 0.0, "other"), tokens=90)
    assert reward == Reward(
        score=2.0 * 1.0 + 0.5 * 0.5 - 0.5,
        accuracy=1.0,
        components={"right": 1.0, "right/steps": 3.0, "tone": 0.5, "overlong": -0.5},
        status="ok",
        extracted="42",
        trained=True,
    )


def test_only_masking_takes_truncated_responses_out_of_the_loss() -> None:
    results = FunctionResult(1.0, 1.0), FunctionResult(0.0, 0.0)
    assert combined(*results, truncated=True).trained
    assert combined(*results, mask_truncated=True).trained
    assert not combined(*results, truncated=True, mask_truncated=True).trained


def test_failures_count_as_wrong_answers_of_the_function_that_failed() -> None:
    right = FunctionResult(1.0, 1.0)
    second_failed = combined(right, failed_result("crash", SECOND))
    assert (second_failed.score, second_failed.accuracy, second_failed.status) == (2.0, 1.0, "crash")
    both_failed = combined(failed_result("timeout", FIRST), failed_result("crash", SECOND))
    assert (both_failed.score, both_failed.accuracy, both_failed.status) == (-2.0, 0.0, "timeout")


def rollout(finish_reason: FinishReason) -> Rollout:
    return Rollout((1,), (-0.5,), finish_reason, policy_version=0, text="x")


def test_reward_metrics() -> None:
    prompt = Prompt("p", (1,), "p", "42", "math_dapo")
    rewards = (
        Reward(1.0, 1.0, {"right": 1.0, "overlong": 0.0, "right/steps": 4.0}),
        Reward(-1.5, 0.0, {"right": -1.0, "overlong": -0.5}, status="unparsed"),
    )
    failures = (
        Reward(-1.0, 0.0, {"right": -1.0, "overlong": 0.0}, status="timeout"),
        Reward(-1.0, 0.0, {"right": -1.0, "overlong": 0.0}, status="crash"),
    )
    groups = [
        ScoredGroup(prompt, (rollout("stop"), rollout("length")), rewards),
        ScoredGroup(prompt, (rollout("stop"), rollout("stop")), failures),
    ]
    assert values(reward_metrics(groups)) == {
        "reward/score": -2.5 / 4,
        "reward/accuracy": 0.25,
        "reward/right": -0.5,
        "reward/right/steps": 4.0,
        "reward/overlong": -0.125,
        "reward/overlong_share": 0.25,
        "reward/truncated": 0.25,
        "reward/unparsed": 1.0,
        "reward/timeouts": 1.0,
        "reward/crashes": 1.0,
    }
