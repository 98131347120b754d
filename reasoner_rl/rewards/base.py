"""What scores responses, wherever its processes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.types import Reward


class Rewards(Protocol):
    """The reward functions of a recipe, in processes that can be killed."""

    def score(
        self, tasks: Sequence[RewardTask], progress: Callable[[int], None] | None = None
    ) -> list[Reward]:
        """Return one Reward per task, in order. ``progress`` is called with how many more tasks are finished."""
        ...

    def for_evaluation(self, max_response_tokens: int) -> Rewards:
        """The same processes, for responses of another greatest length, with the functions' evaluation parameters."""
        ...
