"""Scored groups for the tests of advantages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup


@pytest.fixture(scope="session")
def scored_group() -> Callable[..., ScoredGroup]:
    """Make a group from its scores; response i has i + 1 tokens. Accuracies are the scores unless given."""

    def make(
        scores: Sequence[float],
        accuracies: Sequence[float | None] | None = None,
        penalties: Sequence[float] | None = None,
        trained: Sequence[bool] | None = None,
        prompt_ids: tuple[int, ...] = (7, 8),
        version: int = 0,
    ) -> ScoredGroup:
        accuracies = scores if accuracies is None else accuracies
        trained = [True] * len(scores) if trained is None else trained
        return ScoredGroup(
            prompt=Prompt("uid", prompt_ids, "text", "42", "test"),
            rollouts=tuple(
                Rollout(
                    tuple(range(10, 11 + i)),
                    tuple(-0.5 * (j + 1) for j in range(i + 1)),
                    "stop",
                    version + i,
                    "",
                )
                for i in range(len(scores))
            ),
            rewards=tuple(
                Reward(score + penalty, accuracy, {"overlong": penalty}, trained=kept)
                for score, accuracy, kept, penalty in zip(
                    scores, accuracies, trained, penalties or [0.0] * len(scores), strict=True
                )
            ),
        )

    return make
