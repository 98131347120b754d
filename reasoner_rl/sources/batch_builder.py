"""The groups of one step while its batch is being filled: how many are wanted, and which are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoner_rl.advantages.filters import teaches
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.types import ScoredGroup


class BatchBuilder:
    """Decides how many prompts to launch, and which groups make the batch.

    A group that is dropped, or put off, is replaced at once by the next prompt, so that no rank waits for a whole
    round to end. Groups are accepted in the order of their prompts, whatever time their responses took: a batch of
    whatever is finished first would favour short answers. What is accepted therefore depends on neither timing nor the
    number of ranks.

    Args:
        reused: surplus groups of earlier steps, which open the batch.
    """

    def __init__(self, config: OnlineConfig, reused: Sequence[ScoredGroup]) -> None:
        arithmetic, dynamic = step_arithmetic(config), config.algorithm.dynamic_sampling
        self._config = config
        self.wanted = arithmetic.prompts_per_step
        self._filtered = dynamic.enabled
        self._keeps_surplus = dynamic.max_staleness > 0 and not config.batch.steps_ahead
        self._at_a_time = arithmetic.prompts_per_generation
        # What is kept for later steps must be used before it is too old.
        useful = self.wanted * (1 + dynamic.max_staleness) if self._keeps_surplus else math.inf
        self._goal = max(min(self._at_a_time, useful), self.wanted) if dynamic.enabled else self.wanted
        self.cap = dynamic.max_generation_batches * self._at_a_time if dynamic.enabled else math.inf
        self.reused = list(reused)
        self.launched = 0
        # Position among the launched -> the group, and whether it is kept; None: it was put off.
        self._finished: dict[int, tuple[ScoredGroup | None, bool]] = {}
        # Counted as groups come in, since `done` and `to_launch` are asked after every step of a replica: groups that
        # are kept, prompts that are finished without a gap from the first one on, and groups kept of these.
        self._kept = self._in_a_row = self._kept_in_a_row = 0

    def following(self, used: int) -> BatchBuilder:
        """That of the next step, which begins with the prompt launched at position ``used``; see batch.ahead."""
        finished = {place: group for place, (group, _) in self._finished.items()}
        later = [finished.get(place) for place in range(used, self.launched)]
        return BatchBuilder(self._config, ()).opened_by(later)

    def opened_by(self, groups: Sequence[ScoredGroup | None]) -> BatchBuilder:
        """With prompts launched already, in order; None: not finished."""
        self.launched += len(groups)
        self.cap += len(groups)
        for position, group in enumerate(groups):
            if group is not None:
                self.add(position, group)
        return self

    def aim_at(self, steps: int) -> None:
        """Have prompts launched for so many steps, that of the batch included; 0: for none at present."""
        self._goal = steps * self.wanted

    def to_launch(self) -> int:
        """How many more prompts may be started now."""
        if len(self.reused) >= self.wanted:
            return 0
        in_flight = self.launched - len(self._finished)
        kept = len(self.reused) + self._kept
        room = min(self._at_a_time - in_flight, self._goal - kept - in_flight)
        return int(max(0, min(room, self.cap - self.launched)))

    def add(self, position: int, group: ScoredGroup) -> None:
        """Take a finished group; ``position`` is that of its prompt among the launched."""
        self._note(position, group, not self._filtered or teaches(group))

    def put_off(self, position: int) -> None:
        """A group is not waited for: it makes room for the next prompt, as one that is dropped does."""
        self._note(position, None, False)

    def _note(self, position: int, group: ScoredGroup | None, keeps: bool) -> None:
        self._finished[position] = (group, keeps)
        self._kept += keeps
        while self._in_a_row in self._finished:
            self._kept_in_a_row += self._finished[self._in_a_row][1]
            self._in_a_row += 1

    @property
    def done(self) -> bool:
        """Whether nothing more is to be waited for: all is finished, or what is not would be thrown away."""
        if len(self._finished) == self.launched:
            return self.to_launch() == 0
        return not self._keeps_surplus and len(self.reused) + self._kept_in_a_row >= self.wanted

    def _in_order(self, used: int) -> list[ScoredGroup]:
        finished = [self._finished[position] for position in range(used)]
        return self.reused + [group for group, keeps in finished if group is not None and keeps]

    @property
    def used(self) -> int:
        """How many of the launched prompts count; those behind are as if they had not been launched."""
        settled, kept = self._in_a_row, len(self.reused)
        if self._keeps_surplus:
            return settled
        for position in range(settled):
            if kept >= self.wanted:
                return position
            kept += self._finished[position][1]
        return settled

    def kept(self) -> list[ScoredGroup]:
        """Groups that teach, in prompt order, those of earlier steps first; perhaps more than are wanted."""
        return self._in_order(self.used)

    def generated(self) -> dict[int, ScoredGroup]:
        """All groups of this step that count, kept or not, by the position of their prompts, in order."""
        found = ((position, self._finished[position][0]) for position in range(self.used))
        return {position: group for position, group in found if group is not None}
