"""The overlong penalty, the weighted sum and the metrics, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from reasoner_rl.config.reward import OverlongConfig, RewardFunctionConfig
from reasoner_rl.metrics import values
from reasoner_rl.rewards.contract import FunctionResult
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rewards.shaping import combine, failed_result, overlong_penalty, settle_failures
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


def test_failures_are_lowered_to_the_worst_verdict_of_their_group() -> None:
    crash, slow = failed_result("crash", FIRST), failed_result("timeout", SECOND)
    assert (crash.score, slow.score) == (-1.0, 0.0)

    def scores(groups: list[int | None], second: RewardFunctionConfig = SECOND) -> list[tuple[float, float]]:
        results = [
            (FunctionResult(-5.0, 0.0), FunctionResult(-2.0, None)),
            (crash, FunctionResult(3.0, None)),
            (FunctionResult(9.0, 1.0), slow),
        ]
        settled = settle_failures(results, groups, [FIRST, second])
        assert [[one.failed for one in row] for row in settled] == [
            [False, False],
            [True, False],
            [False, True],
        ]
        assert settled[1][0].status == "crash"
        first, other = zip(*[[one.score for one in row] for row in settled], strict=True)
        return list(zip(first, other, strict=True))

    assert scores([0, 0, 0]) == [(-5, -2), (-5, 3), (9, -2)]
    assert scores([0, 1, 0]) == [(-5, -2), (-1, 3), (9, -2)], "no verdict of its function in the group"
    assert scores([None, None, None]) == [(-5, -2), (-1, 3), (9, 0)]
    penalty = SECOND.model_copy(update={"weight": -1.0})
    assert scores([0, 0, 0], penalty)[2] == (9, 3), "of a penalty the highest score is the worst"


def test_a_failure_that_counts_as_less_than_the_worst_verdict_keeps_its_score() -> None:
    low = RewardFunctionConfig(fn="a:right", failure_score=-8.0, parameters={"wrong_score": "the function's"})
    settled = settle_failures([[failed_result("crash", low)], [FunctionResult(-5.0, 0.0)]], [3, 3], [low])
    assert [row[0].score for row in settled] == [-8.0, -5.0]


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
        "reward/accuracy_unknown": 0.0,
        "reward/right": -0.5,
        "reward/right/steps": 4.0,
        "reward/overlong": -0.125,
        "reward/overlong_share": 0.25,
        "reward/truncated": 0.25,
        "reward/unparsed": 1.0,
        "reward/undecided": 0.0,
        "reward/timeouts": 1.0,
        "reward/crashes": 1.0,
    }


def test_an_accuracy_that_is_not_known_is_not_logged() -> None:
    prompt = Prompt("p", (1,), "p", "42", "math_dapo")
    rewards = (Reward(1.0, None, {}), Reward(-1.0, 0.0, {}, status="crash"))
    numbers = values(reward_metrics([ScoredGroup(prompt, (rollout("stop"), rollout("stop")), rewards)]))
    assert "reward/accuracy" not in numbers, "that of the failures alone would mislead"
    assert (numbers["reward/accuracy_unknown"], numbers["reward/score"]) == (1.0, 0.0)
