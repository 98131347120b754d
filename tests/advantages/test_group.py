from __future__ import annotations

import math

import pytest
import torch

from reasoner_rl.advantages.group import advantages_in_groups, group_advantages
from reasoner_rl.errors import UserError

SCORES = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("group_mean", [[0.75, -0.25, -0.25, -0.25], [1.0, -1.0, 1.0, -1.0]]),
        # Against the mean of the others: 1 - 0, 0 - 1/3; 3 - 5/3, 1 - 7/3.
        ("leave_one_out", [[1.0, -1 / 3, -1 / 3, -1 / 3], [4 / 3, -4 / 3, 4 / 3, -4 / 3]]),
        # Unbiased standard deviations: sqrt(0.75 / 3) = 1/2, and sqrt(4 / 3).
        ("group_std", [[1.5, -0.5, -0.5, -0.5], [math.sqrt(3) / 2 * sign for sign in (1, -1, 1, -1)]]),
    ],
)
def test_by_hand(kind, expected):
    torch.testing.assert_close(group_advantages(SCORES, kind), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
def test_advantages_of_a_group_sum_to_zero_and_ignore_a_shift(kind):
    scores = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    advantages = group_advantages(scores, kind)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(group_advantages(scores + 3.0, kind), advantages)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
def test_a_group_of_one_is_refused(kind):
    with pytest.raises(
        UserError, match=r"rollout\.responses_per_prompt must be at least 2, and a group has 1"
    ):
        group_advantages(torch.ones(3, 1), kind)


def test_responses_are_compared_within_their_group_whatever_their_order():
    """Groups of two and of three, mixed."""
    scores, groups = [1.0, 0.0, 0.0, 0.0, 3.0], [4, 9, 4, 9, 9]
    assert advantages_in_groups(scores, groups, "group_mean") == [0.5, -1.0, -0.5, -1.0, 2.0]
    assert advantages_in_groups([], [], "group_mean") == []
    with pytest.raises(UserError, match="and a group has 1"):
        advantages_in_groups([1.0, 0.0, 2.0], [0, 0, 1], "group_mean")


def test_equal_scores_give_no_advantage_to_speak_of():
    # 0.1 is no binary fraction: in float32 rounding of the mean, over a deviation of nearly 0, would be seen.
    advantages = advantages_in_groups([0.1] * 7, [0] * 7, "group_std")
    assert max(abs(advantage) for advantage in advantages) < 1e-9


def test_matches_verl():
    pytest.importorskip("verl")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    scores = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    index = [i for i in range(3) for _ in range(8)]

    def theirs(function, **options):
        advantages, _ = function(scores.clone().reshape(-1, 1), torch.ones(24, 1), index, **options)
        return advantages.reshape(3, 8)

    grpo, rloo = core_algos.compute_grpo_outcome_advantage, core_algos.compute_rloo_outcome_advantage
    torch.testing.assert_close(group_advantages(scores, "group_std"), theirs(grpo))
    torch.testing.assert_close(
        group_advantages(scores, "group_mean"), theirs(grpo, norm_adv_by_std_in_grpo=False)
    )
    torch.testing.assert_close(group_advantages(scores, "leave_one_out"), theirs(rloo))
