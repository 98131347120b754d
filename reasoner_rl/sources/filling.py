"""Generation and scoring of one step's groups: prompts are launched until the batch is full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.prompts.selection import SelectingSampler
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import Generator
from reasoner_rl.seeding import derive_seed
from reasoner_rl.sources.batch_builder import BatchBuilder
from reasoner_rl.sources.generate import score_groups
from reasoner_rl.sources.launches import Launch, Launches
from reasoner_rl.types import Prompt, ScoredGroup

# Times batch.prompts_per_generation: so many of the prompts of a step may be put off. Later ones are answered to their
# ends, so that a step is filled even where every response is long.
MAY_BE_PUT_OFF = 2


@dataclass(frozen=True, slots=True)
class Filled:
    """What a step has generated."""

    groups: list[ScoredGroup]  # that count, kept or not, in the order in which their prompts were launched
    indices: list[int]  # of the prompt of each
    put_off: list[Launch]  # to be continued in later steps, the oldest first
    newly_put_off: int  # of them, those that this step has put off
    added_tokens: int  # response tokens that were drawn in this step for what counts


class Filler:
    """Fills the batches of a run, one after the other."""

    def __init__(
        self,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        sampler: OrderedSampler | SelectingSampler,
        generator: Generator,
        rewards: RewardRunner,
        timer: PhaseTimer,
    ) -> None:
        self._config = config
        self._prompts = prompts
        self._sampler = sampler
        self._generator = generator
        self._rewards = rewards
        self._timer = timer

    def fill(self, step: int, builder: BatchBuilder, put_off: Sequence[Launch]) -> Filled:
        """Launch prompts and judge what is finished until the batch is full, or the cap is reached.

        Launched are first those ``put_off`` before that are to be continued in this step, then those of the sampler.
        """
        before, config = self._sampler.state(), self._config
        due = self._due(put_off)
        responses = step_arithmetic(config).responses_per_step
        launches = Launches(config.rollout.responses_per_prompt, config.rollout.sampling)
        drawn: dict[int, Launch] = {}
        with progress_bar(config.logging.progress, "generating", responses) as advance:
            try:
                while not builder.done:
                    self._launch(step, builder, launches, due)
                    with self._timer("generate"):
                        output = self._generator.step()
                    launched = builder.launched * config.rollout.responses_per_prompt
                    advance(output.responses, output.tokens, max(launched, responses))
                    found = dict(launches.collect(output))
                    drawn |= found
                    self._judge(builder, found)
            except Exception:
                self._sampler.restore(before)  # what was launched comes again
                self._generator.cancel()
                raise
        if builder.launched > builder.used:
            self._generator.cancel()
        self._sampler.restore(before)
        self._sampler.take(max(0, builder.used - len(due)))  # what did not count comes again
        return _filled(builder, launches, drawn, [*due[builder.used :], *put_off[len(due) :]])

    def _due(self, put_off: Sequence[Launch]) -> Sequence[Launch]:
        """What is to be continued in this step: all of it, or nothing."""
        rule = self._config.batch.put_off
        if rule is None or rule.until == "next_step":
            return put_off
        round_size = rule.long_round_prompts or self._config.batch.prompts_per_step
        return put_off if len(put_off) >= round_size else ()

    def _launch(self, step: int, builder: BatchBuilder, launches: Launches, due: Sequence[Launch]) -> None:
        """Start as many prompts as the batch needs. A response's randomness is its prompt's position in the step."""
        config, requests = self._config, []
        for _ in range(builder.to_launch()):
            position = builder.launched
            if position < len(due):
                launch = due[position]
            else:
                [index] = self._sampler.take(1)
                prompt = self._prompts[index]
                seed = derive_seed(config.run.seed, "train", step, position, prompt.uid)
                launch = Launch(index, prompt, seed)
            requests += launches.add(launch, self._budget(position, launch))
            builder.launched += 1
        if requests:
            self._generator.submit(requests, config.rollout.sampling)

    def _budget(self, position: int, launch: Launch) -> int | None:
        """Most tokens to add to each response in this step; None: to its end."""
        rule, at_a_time = self._config.batch.put_off, step_arithmetic(self._config).prompts_per_generation
        if rule is None or position >= MAY_BE_PUT_OFF * at_a_time:
            return None
        return None if launch.rollouts and rule.until == "long_round" else rule.budget_tokens

    def _judge(self, builder: BatchBuilder, found: Mapping[int, Launch]) -> None:
        if not found:  # as after most steps of a generator with many replicas
            return
        limit = self._config.rollout.sampling.max_response_tokens
        whole = {position: launch for position, launch in found.items() if not launch.unfinished(limit)}
        for position in found.keys() - whole.keys():
            builder.put_off(position)
        prompts = [launch.prompt for launch in whole.values()]
        rollouts = [launch.rollouts for launch in whole.values()]
        groups = score_groups(prompts, rollouts, self._rewards, timer=self._timer, progress=False)
        for position, group in zip(whole, groups, strict=True):
            builder.add(position, group)


def _filled(
    builder: BatchBuilder, launches: Launches, drawn: Mapping[int, Launch], still_put_off: Sequence[Launch]
) -> Filled:
    generated = builder.generated()
    again = [drawn[position] for position in range(builder.used) if position not in generated]
    added = sum(drawn[position].tokens - launches[position].tokens for position in range(builder.used))
    return Filled(
        groups=list(generated.values()),
        indices=[drawn[position].index for position in generated],
        put_off=[*again, *still_put_off],
        newly_put_off=len(again),
        added_tokens=added,
    )
