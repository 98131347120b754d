"""What a verifier says of many responses, in figures, against a calculation by hand."""

from __future__ import annotations

import pytest

from reasoner_rl.evaluation.estimators import confidence_interval
from reasoner_rl.evaluation.verdicts import VERDICTS, figures, verdict
from reasoner_rl.types import Reward


def test_verdicts() -> None:
    assert verdict(Reward(0.0, 0.5, {})) == "correct"
    assert verdict(Reward(5.0, 0.49, {})) == "wrong"
    assert verdict(Reward(5.0, None, {})) == "unknown"
    assert [verdict(Reward(0.0, 1.0, {}, status)) for status in VERDICTS[2:6]] == list(VERDICTS[2:6])


def test_figures_are_clustered_by_problem() -> None:
    problems = ["a", "b", "a", "c", "a", "c"]
    accuracies = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    rewards = [Reward(2 * accuracy - 1, accuracy, {}) for accuracy in accuracies]
    rewards[1] = Reward(-3.0, 0.0, {}, "timeout")
    found = figures(problems, rewards)
    assert (found.responses, found.problems, found.fewest, found.most, found.samples) == (
        6,
        3,
        1,
        3,
        "1 to 3",
    )
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.average == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found.interval == confidence_interval([[1.0, 0.0, 0.0], [0.0], [1.0, 1.0]])
    assert found.mean_score == pytest.approx((1 - 3 - 1 + 1 - 1 + 1) / 6)
    assert found.verdicts == dict.fromkeys(VERDICTS, 0) | {"correct": 3, "wrong": 2, "timeout": 1}
    assert figures("ab", rewards[:2]).samples == "1"


def test_one_response_without_accuracy_leaves_the_accuracy_unknown() -> None:
    found = figures("aab", [Reward(1.0, 1.0, {}), Reward(1.0, None, {}), Reward(0.0, 0.0, {})])
    assert (found.accuracy, found.average, found.interval) == (None, None, None)
    assert found.mean_score == pytest.approx(2 / 3)
    assert found.verdicts["unknown"] == 1
