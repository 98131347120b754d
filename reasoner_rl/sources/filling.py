"""Generation and scoring of one step's groups: prompts are launched until the batch is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.prompts.selection import SelectingSampler
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput
from reasoner_rl.seeding import derive_seed
from reasoner_rl.sources.batch_builder import BatchBuilder
from reasoner_rl.sources.expected_lengths import ExpectedLengths, longest_first
from reasoner_rl.sources.generate import score_groups
from reasoner_rl.sources.launches import Launch, Launches
from reasoner_rl.types import Prompt, ScoredGroup

# Times batch.prompts_per_generation: so many of the prompts of a step may be put off. Later ones are answered to their
# ends, so that a step is filled even where every response is long.
MAY_BE_PUT_OFF = 2


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where a filler was before a step, for `Filler.go_back`."""

    sampler: Mapping[str, Any]
    ahead: list[Launch]


@dataclass(frozen=True, slots=True)
class Filled:
    """What a step has generated."""

    before: Bookmark
    builder: BatchBuilder
    kept: list[ScoredGroup]  # see `BatchBuilder.kept`
    groups: list[ScoredGroup]  # that count, kept or not, in the order in which their prompts were launched
    indices: list[int]  # of the prompt of each
    put_off: list[Launch]  # to be continued in later steps, the oldest first
    newly_put_off: int  # of them, those that this step has put off
    added_tokens: int  # response tokens of what counts, but for those that earlier steps have counted


@dataclass(slots=True)
class _Filling:
    """A step's batch that is being filled."""

    builder: BatchBuilder
    launches: Launches
    # Put off before, to be launched before the sampler's prompts.
    due: deque[Launch] = field(default_factory=deque)
    step: int = 0
    policy: int = 0  # the step whose policy generates: this one, or that before while its models are trained


class Filler:
    """Fills the batches of a run, one after the other.

    With batch.ahead, what a step has launched and its batch has not taken opens the next step. Between steps it is in
    flight if generation goes on while models are trained, and otherwise paused.
    """

    def __init__(
        self,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        sampler: OrderedSampler | SelectingSampler,
        generator: Generator,
        rewards: Rewards,
        timer: PhaseTimer,
        lengths: ExpectedLengths | None = None,
        *,
        goes_on: bool = False,
        returns: int = 0,
    ) -> None:
        """lengths: requests are started in their order, the longest first; if unset, in that of their prompts.

        goes_on: generation has workers of its own, and goes on while models are trained. returns: see `DriverState`.
        """
        self._lengths = lengths
        self._config = config
        self._prompts = prompts
        self._sampler = sampler
        self._generator = generator
        self._rewards = rewards
        self._timer = timer
        self._goes_on = goes_on
        self._again = ("return", returns) if returns else ()
        self._ahead: _Filling | None = None  # of the next step

    def fill(self, step: int, reused: Sequence[ScoredGroup], put_off: Sequence[Launch]) -> Filled:
        """Launch prompts and judge what is finished until the batch is full, or the cap is reached.

        Launched are first those ``put_off`` before that are to be continued in this step, then those of the sampler.
        reused: surplus groups of earlier steps, which open the batch.
        """
        config, before = self._config, Bookmark(self._sampler.state(), self.ahead())
        due = self._due(put_off)
        filling = self._ahead or _Filling(BatchBuilder(config, reused), self._launches(), deque(due))
        filling.step = filling.policy = step
        builder, responses = filling.builder, step_arithmetic(config).responses_per_step
        with progress_bar(config.logging.progress, "generating", responses) as advance:
            try:
                if config.batch.steps_ahead:
                    builder.aim_at(step, 1 + self._steps_ahead(step))
                    self._restart(filling)
                    self._launch(filling)
                while not builder.done:
                    self._launch(filling)
                    with self._timer("generate"):
                        output = self._generator.step()
                    launched = builder.launched * config.rollout.responses_per_prompt
                    advance(output.responses, output.tokens, max(launched, responses))
                    self._take_up(filling, output)
            except Exception:
                self.go_back(before)
                raise
        used = len(builder.used)
        filled = _filled(before, filling, [*due[used:], *put_off[len(due) :]])
        if config.batch.steps_ahead:
            self._go_on(filling)
        else:
            if builder.launched > used:
                self._generator.cancel()
            self._sampler.restore(before.sampler)
            self._sampler.take(max(0, used - len(due)))  # what did not count comes again
        return filled

    def go_back(self, bookmark: Bookmark) -> None:
        """Drop what is in flight; what was launched since ``bookmark`` comes again."""
        self._sampler.restore(bookmark.sampler)
        self.restore(bookmark.ahead)
        self._generator.cancel()

    def ahead(self) -> list[Launch]:
        """What opens the next step, in order; of what is in flight, what was drawn before the last `pause`."""
        return list(self._ahead.launches) if self._ahead else []

    def restore(self, ahead: Sequence[Launch]) -> None:
        """Begin the next step with these."""
        self._ahead = self._opened(self._launches(ahead)) if ahead else None

    def pause(self) -> None:
        """Take back what is in flight: as it is, or finished where batch.ahead.in_flight says so."""
        if self._ahead is None or not self._ahead.launches.in_flight:
            return
        rule = self._config.batch.ahead
        if rule is not None and rule.in_flight == "finish":
            while self._ahead.launches.in_flight:
                self._take_up(self._ahead, self._generator.step())
            return
        output = self._generator.interrupt()
        self._take_up(self._ahead, output)
        self._ahead.launches.interrupted(output)

    def advance(self) -> None:
        """Take up what was generated for the next step, and launch what may be launched under the present weights."""
        output = self._generator.step()
        if self._ahead is not None:
            self._take_up(self._ahead, output)
            self._launch(self._ahead)

    def _go_on(self, filled: _Filling) -> None:
        """Prepare the next step, whose weights will be newer by one version than those of what is launched now."""
        self._ahead = self._opened(filled.launches.without(filled.builder.used))
        self._ahead.step, self._ahead.policy = filled.step + 1, filled.step
        self._ahead.builder.aim_at(filled.step + 1, self._steps_ahead(filled.step))
        if self._goes_on:
            self._launch(self._ahead)
        else:
            self.pause()

    def _steps_ahead(self, step: int) -> int:
        return min(self._config.batch.steps_ahead, max(0, self._config.run.steps - step))

    def _launches(self, launched: Sequence[Launch] = ()) -> Launches:
        rollout = self._config.rollout
        return Launches(rollout.responses_per_prompt, rollout.sampling.max_response_tokens, launched)

    def _opened(self, launches: Launches) -> _Filling:
        """A batch that begins with these."""
        return _Filling(BatchBuilder(self._config, (), list(launches)), launches)

    def _due(self, put_off: Sequence[Launch]) -> Sequence[Launch]:
        """What is to be continued in this step: all of it, or nothing."""
        rule = self._config.batch.put_off
        if rule is None or rule.until == "next_step":
            return put_off
        round_size = rule.long_round_prompts or step_arithmetic(self._config).prompts_per_generation
        return put_off if len(put_off) >= round_size else ()

    def _restart(self, filling: _Filling) -> None:
        """Go on with what was launched before and is not in flight."""
        self._start(filling, filling.launches.stopped())

    def _launch(self, filling: _Filling) -> None:
        """Start as many prompts as the batch needs. A response's randomness is its prompt's position in the step."""
        builder, positions = filling.builder, list[int]()
        for _ in range(builder.to_launch()):
            positions.append(builder.launched)
            launch = filling.due.popleft() if filling.due else self._next_prompt(filling, positions[-1])
            filling.launches.add(launch)
            builder.launch(launch.step)
        self._start(filling, positions)

    def _start(self, filling: _Filling, positions: Sequence[int]) -> None:
        launches, requests, expected = filling.launches, list[GenerationRequest](), dict[int, float | None]()
        for position in positions:
            launch = launches[position]
            added = launches.start(position, self._budget(position, launch))
            if self._lengths is not None:
                expected |= dict.fromkeys((each.number for each in added), self._lengths.of(launch.index))
            requests += added
        if self._lengths is not None:
            requests = longest_first(requests, expected)
        if requests:
            self._generator.submit(requests, self._config.rollout.sampling)

    def _next_prompt(self, filling: _Filling, position: int) -> Launch:
        [index] = self._sampler.take(1)
        prompt = self._prompts[index]
        seed = derive_seed(self._config.run.seed, "train", filling.step, position, prompt.uid, *self._again)
        return Launch(index, prompt, seed, filling.policy)

    def _budget(self, position: int, launch: Launch) -> int | None:
        """Most tokens to add to each response in this step; None: to its end."""
        rule, at_a_time = self._config.batch.put_off, step_arithmetic(self._config).prompts_per_generation
        if rule is None or position >= MAY_BE_PUT_OFF * at_a_time:
            return None
        return None if launch.rollouts and rule.until == "long_round" else rule.budget_tokens

    def _take_up(self, filling: _Filling, output: StepOutput) -> None:
        """Judge the groups of which all responses have ended, and put off those that have reached their budget."""
        limit, launches = self._config.rollout.sampling.max_response_tokens, filling.launches
        whole = []
        for position in launches.collect(output):
            if launches[position].unfinished(limit):
                filling.builder.put_off(position)
            else:
                whole.append(position)
        if not whole:  # as after most steps of a generator with many replicas
            return
        prompts = [launches[position].prompt for position in whole]
        rollouts = [launches[position].rollouts for position in whole]
        groups = score_groups(prompts, rollouts, self._rewards, timer=self._timer, progress=False)
        for position, group in zip(whole, groups, strict=True):
            launches[position] = replace(launches[position], rewards=group.rewards)
            filling.builder.add(position, group)


def _filled(before: Bookmark, filling: _Filling, still_put_off: Sequence[Launch]) -> Filled:
    builder, launches = filling.builder, filling.launches
    generated, used = builder.generated(), {position: launches[position] for position in builder.used}
    again = [
        replace(launch, counted=launch.tokens)
        for position, launch in used.items()
        if position not in generated
    ]
    return Filled(
        before=before,
        builder=builder,
        kept=builder.kept(),
        groups=list(generated.values()),
        indices=[used[position].index for position in generated],
        put_off=[*again, *still_put_off],
        newly_put_off=len(again),
        added_tokens=sum(launch.tokens - launch.counted for launch in used.values()),
    )
