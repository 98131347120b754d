"""The groups of one step while its batch is being filled: how many are wanted, and which are kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reasoner_rl.advantages.filters import teaches
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.sources.launches import Launch
from reasoner_rl.types import ScoredGroup


class BatchBuilder:
    """Decides how many prompts to launch, and which groups make the batch.

    A group that is dropped, or put off, is replaced at once by the next prompt, so that no rank waits for a whole
    round to end. Groups are accepted in the order of their prompts, whatever time their responses took: a batch of
    whatever is finished first would favour short answers. What is accepted therefore depends on neither timing nor the
    number of ranks.

    With batch.ahead.order "finished" the batch is made of groups that are finished, those that were begun first before
    others, and is not full while it would leave more groups than later steps can train on in time.

    Args:
        reused: surplus groups of earlier steps, which open the batch.
        opening: prompts launched in earlier steps, in order, which come next.
    """

    def __init__(
        self, config: OnlineConfig, reused: Sequence[ScoredGroup], opening: Sequence[Launch] = ()
    ) -> None:
        arithmetic, dynamic = step_arithmetic(config), config.algorithm.dynamic_sampling
        self._config = config
        self.wanted = arithmetic.prompts_per_step
        self._filtered = dynamic.enabled
        self._keeps_surplus = dynamic.max_staleness > 0 and not config.batch.steps_ahead
        self._at_a_time = arithmetic.prompts_in_flight
        # What is kept for later steps must be used before it is too old.
        useful = self.wanted * (1 + dynamic.max_staleness) if self._keeps_surplus else math.inf
        self._goal = max(min(self._at_a_time, useful), self.wanted) if dynamic.enabled else self.wanted
        most = dynamic.max_generation_batches * arithmetic.prompts_per_generation
        self.cap = len(opening) + most if dynamic.enabled else math.inf
        self.reused = list(reused)
        ahead = config.batch.ahead
        self._in_order = not config.batch.steps_ahead or (ahead is not None and ahead.order == "begun")
        self._step = 0
        self._begun = [launch.step for launch in opening]
        # By the step that they were begun in: prompts that may still be trained on, and groups that are kept of them.
        self._alive, self._kept_of = Counter(self._begun), Counter[int]()
        # Position among the launched -> the group, and whether it is kept; None: it was put off.
        self._finished: dict[int, tuple[ScoredGroup | None, bool]] = {}
        # Counted as groups come in, since `done` and `to_launch` are asked after every step of a replica: groups that
        # are kept, prompts that are finished without a gap from the first one on, and groups kept of these.
        self._kept = self._in_a_row = self._kept_in_a_row = 0
        for position, launch in enumerate(opening):
            if launch.group is not None:
                self.add(position, launch.group)

    @property
    def launched(self) -> int:
        """How many prompts were launched."""
        return len(self._begun)

    def launch(self, step: int) -> None:
        """Note a prompt that is begun by the policy of this step."""
        self._begun.append(step)
        self._alive[step] += 1

    def aim_at(self, step: int, steps: int) -> None:
        """Have prompts launched for so many steps, of which ``step``, that of this batch, is the first."""
        self._step, self._goal = step, steps * self.wanted

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
        (self._kept_of if keeps else self._alive)[self._begun[position]] += 1 if keeps else -1
        while self._in_a_row in self._finished:
            self._kept_in_a_row += self._finished[self._in_a_row][1]
            self._in_a_row += 1

    @property
    def done(self) -> bool:
        """Whether nothing more is to be waited for: all is finished, or what is not would be thrown away."""
        if self._full and not self._keeps_surplus:
            return True
        return len(self._finished) == self.launched and self.to_launch() == 0

    @property
    def _full(self) -> bool:
        kept = self._kept_in_a_row if self._in_order else self._kept
        return len(self.reused) + kept >= self.wanted and (self._in_order or self._leaves_none_late())

    def _leaves_none_late(self) -> bool:
        """Whether later steps can train in time on all that this batch leaves, should it all be kept.

        A prompt that was begun in step b is to be trained on in step b + batch.ahead.steps at the latest.
        """
        room, left = self.wanted, 0
        for begun in sorted(self._alive):
            taken = min(self._kept_of[begun], room)
            room, left = room - taken, left + self._alive[begun] - taken
            if left > (begun + self._config.batch.steps_ahead - self._step) * self.wanted:
                return False
        return True

    @property
    def used(self) -> list[int]:
        """Positions of the launched prompts that count, in order; the others are as if they had not been launched."""
        kept, positions = len(self.reused), list[int]()
        for position in range(self._in_a_row) if self._in_order else sorted(self._finished):
            if kept >= self.wanted and not self._keeps_surplus:
                break
            kept += self._finished[position][1]
            positions.append(position)
        return positions

    def kept(self) -> list[ScoredGroup]:
        """Groups that teach, in prompt order, those of earlier steps first; perhaps more than are wanted."""
        finished = [self._finished[position] for position in self.used]
        return self.reused + [group for group, keeps in finished if group is not None and keeps]

    def generated(self) -> dict[int, ScoredGroup]:
        """All groups of this step that count, kept or not, by the position of their prompts, in order."""
        found = ((position, self._finished[position][0]) for position in self.used)
        return {position: group for position, group in found if group is not None}
