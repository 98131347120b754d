"""A reference policy that follows the policy in jumps (iterative GRPO, arXiv 2402.03300, section 4.1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner_rl.algorithms.base import Models
from reasoner_rl.metrics import Metrics, total


class ReferenceRefresh:
    """Counts steps that updated the policy, and refreshes the reference after every so many; None: never."""

    def __init__(self, every_steps: int | None) -> None:
        self._every, self._steps = every_steps, 0

    def after_update(self, models: Models) -> Metrics:
        """To be called after each step's update; returns what to log."""
        if self._every is None or models.reference is None:
            return {}
        self._steps += 1
        due = self._steps % self._every == 0
        if due:
            models.reference.refresh()
        return {"policy/reference_refreshed": total(float(due))}

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint."""
        return {} if self._every is None else {"steps_of_reference": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved count, or begin to count where the checkpoint was made without refreshing."""
        self._steps = state.get("steps_of_reference", 0)
