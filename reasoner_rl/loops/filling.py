"""The groups of one step while its batch is being filled: which are wanted, launched, judged, kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoner_rl.advantages.filters import split
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.types import Prompt, ScoredGroup


class Filling:
    """Decides how many prompts to launch, and which groups make the batch.

    A dropped group is replaced at once by the next prompt, so that no rank waits for a whole round to end. Groups are
    accepted in the order of their prompts, whatever time their responses took: a batch of whatever is finished first
    would favour short answers. What is accepted therefore depends on neither timing nor the number of ranks.

    Args:
        reused: surplus groups of earlier steps, which open the batch.
    """

    def __init__(self, config: OnlineConfig, reused: Sequence[ScoredGroup]) -> None:
        arithmetic, dynamic = step_arithmetic(config), config.algorithm.dynamic_sampling
        self.wanted = arithmetic.prompts_per_step
        self._filtered = dynamic.enabled
        self._keeps_surplus = dynamic.max_staleness > 0
        self._at_a_time = arithmetic.prompts_per_generation
        # What is kept for later steps must be used before it is too old.
        useful = self.wanted * (1 + dynamic.max_staleness) if self._keeps_surplus else math.inf
        self._goal = max(min(self._at_a_time, useful), self.wanted) if dynamic.enabled else self.wanted
        self.cap = dynamic.max_generation_batches * self._at_a_time if dynamic.enabled else math.inf
        self.reused = list(reused)
        self.launched: list[Prompt] = []
        # Place among the launched -> the group, and whether it is kept.
        self._judged: dict[int, tuple[ScoredGroup, bool]] = {}

    def to_launch(self) -> int:
        """How many more prompts may be started now."""
        if len(self.reused) >= self.wanted:
            return 0
        in_flight = len(self.launched) - len(self._judged)
        kept = len(self.reused) + sum(teaches for _, teaches in self._judged.values())
        room = min(self._at_a_time - in_flight, self._goal - kept - in_flight)
        return int(max(0, min(room, self.cap - len(self.launched))))

    def judge(self, place: int, group: ScoredGroup) -> None:
        """Take note of a finished group; ``place`` is that of its prompt among the launched."""
        teaches = not self._filtered or bool(split([group]).kept)
        self._judged[place] = (group, teaches)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be waited for: all is judged, or what is not would be thrown away."""
        if len(self._judged) == len(self.launched):
            return self.to_launch() == 0
        return not self._keeps_surplus and len(self._in_order(self._settled())) >= self.wanted

    def _settled(self) -> int:
        """How many prompts, from the first one on, are judged without a gap."""
        place = 0
        while place in self._judged:
            place += 1
        return place

    def _in_order(self, used: int) -> list[ScoredGroup]:
        judged = [self._judged[place] for place in range(used)]
        return self.reused + [group for group, teaches in judged if teaches]

    @property
    def used(self) -> int:
        """How many of the launched prompts count; those behind are as if they had not been launched."""
        settled, kept = self._settled(), len(self.reused)
        if self._keeps_surplus:
            return settled
        for place in range(settled):
            if kept >= self.wanted:
                return place
            kept += self._judged[place][1]
        return settled

    def kept(self) -> list[ScoredGroup]:
        """Groups that teach, in prompt order, those of earlier steps first; perhaps more than are wanted."""
        return self._in_order(self.used)

    def generated(self) -> list[ScoredGroup]:
        """All groups of this step that count, kept or not, in prompt order."""
        return [self._judged[place][0] for place in range(self.used)]
