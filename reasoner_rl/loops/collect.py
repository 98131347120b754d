"""Collecting a step's groups: prompts -> rollouts -> rewards, with DAPO's dynamic sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasoner_rl.advantages.filters import Split, split
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import UserError
from reasoner_rl.loops.filling import Filling
from reasoner_rl.loops.generate import score_groups
from reasoner_rl.metrics import Metrics, merge, total
from reasoner_rl.observability.measurements import PhaseTimer, rollout_metrics
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import GenerationRequest, Generator, Turn
from reasoner_rl.seeding import derive_seed
from reasoner_rl.types import Prompt, ScoredGroup


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups to train on, in prompt order, and what it took to find them."""

    groups: list[ScoredGroup]  # none: the step has nothing to train on
    dropped: list[ScoredGroup]  # by the filter
    metrics: Metrics  # accuracy, reward and lengths are of all generated responses, kept or not
    generated_tokens: int


class GroupCollector:
    """Generates and scores groups until a step's batch is full; see `Filling` for which groups make it.

    Surplus groups open the next step's batch unless they have become too old.

    ``surplus`` and ``all_right`` (uids of prompts) are its memory from step to step, and belong into checkpoints.
    """

    def __init__(
        self,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        sampler: PromptSampler,
        generator: Generator,
        rewards: RewardRunner,
        timer: PhaseTimer,
    ) -> None:
        self._config = config
        self._prompts = prompts
        self.sampler = sampler
        self._generator = generator
        self._rewards = rewards
        self._timer = timer
        self.surplus: list[ScoredGroup] = []
        self.all_right: set[str] = set()  # answered right by the present policy

    @property
    def nothing_left(self) -> bool:
        """Whether the present policy was seen to answer every prompt of the data right, with nothing between."""
        return len(self.all_right) == len(self._prompts)

    def collect(self, step: int, version: int) -> Collected:
        """Return a full batch for ``step``, or what the cap on generated prompts allowed, which may be nothing.

        Raises UserError, with the counts, if that is too little and dynamic_sampling.when_exhausted is "fail".
        """
        dynamic = self._config.algorithm.dynamic_sampling
        before = self.sampler.state()
        fresh_enough = [g for g in self.surplus if version - g.policy_version <= dynamic.max_staleness]
        filling = Filling(self._config, fresh_enough)
        self._fill(step, filling)
        kept, generated = filling.kept(), filling.generated()
        filtered = split(generated) if dynamic.enabled else Split(generated, [], [], [])
        counts = {
            "generated": len(generated),
            "dropped_right": len(filtered.all_right),
            "dropped_wrong": len(filtered.all_wrong),
            "dropped_alike": len(filtered.alike),
        }
        if len(kept) < filling.wanted and dynamic.when_exhausted == "fail":
            self.sampler.restore(before)  # a checkpoint that is made now must let the same prompts come again
            raise self._shortage(step, len(kept), counts)
        self._remember(kept, filtered)
        kept, rest = kept[: filling.wanted], kept[filling.wanted :]
        counts |= {
            "kept": len(kept),
            "skipped_steps": int(not kept),
            "stale": len(self.surplus) - len(fresh_enough),
            "reused": len(fresh_enough),
            "surplus": len(rest),
            "aborted": len(filling.launched) - len(generated),
        }
        self.surplus = rest
        metrics = merge(
            [
                {f"groups/{name}": total(count) for name, count in counts.items()},
                rollout_metrics(generated),
                reward_metrics(generated),
            ]
        )
        tokens = sum(len(rollout.token_ids) for group in generated for rollout in group.rollouts)
        dropped = [*filtered.all_right, *filtered.all_wrong, *filtered.alike]
        return Collected(kept, dropped, metrics, tokens)

    def _remember(self, kept: list[ScoredGroup], filtered: Split) -> None:
        """Take note of the prompts that are all right, or forget them: the policy will change, or one is not."""
        if kept or filtered.all_wrong or filtered.alike:
            self.all_right.clear()
        else:
            self.all_right |= {group.prompt.uid for group in filtered.all_right}

    def _fill(self, step: int, filling: Filling) -> None:
        """Launch prompts and judge what is finished until the batch is full, or the cap is reached."""
        before, config = self.sampler.state(), self._config
        responses = step_arithmetic(config).responses_per_step
        with progress_bar(config.logging.progress, "generating", responses) as advance:
            try:
                while not filling.done:
                    self._launch(step, filling)
                    with self._timer("generate"):
                        turn = self._generator.advance()
                    advance(turn.responses)
                    self._judge(filling, turn)
            except Exception:
                self.sampler.restore(before)  # what was launched comes again
                self._generator.abort()
                raise
        if len(filling.launched) > len(filling.generated()):
            self._generator.abort()
        self.sampler.restore(before)
        self.sampler.take(filling.used)  # what did not count comes again

    def _launch(self, step: int, filling: Filling) -> None:
        """Start as many prompts as the batch needs. A response's randomness is its prompt's place in the step."""
        config, requests = self._config, []
        for index in self.sampler.take(filling.to_launch()):
            prompt, place = self._prompts[index], len(filling.launched)
            seed = derive_seed(config.run.seed, "train", step, place, prompt.uid)
            requests.append(
                GenerationRequest(prompt.token_ids, config.rollout.responses_per_prompt, seed, place)
            )
            filling.launched.append(prompt)
        if requests:
            self._generator.submit(requests, config.rollout.sampling)

    def _judge(self, filling: Filling, turn: Turn) -> None:
        places = [place for place, _ in turn.finished]
        prompts = [filling.launched[place] for place in places]
        rollouts = [group for _, group in turn.finished]
        groups = score_groups(prompts, rollouts, self._rewards, timer=self._timer, progress=False)
        for place, group in zip(places, groups, strict=True):
            filling.judge(place, group)

    def _shortage(self, step: int, kept: int, counts: dict[str, int]) -> UserError:
        return UserError(
            f"step {step}: {counts['generated']} generated groups (the most that batch.prompts_per_generation and "
            f"algorithm.dynamic_sampling.max_generation_batches allow) gave {kept} of the "
            f"{self._config.batch.prompts_per_step} wanted: {what_was_dropped(counts)}. {ADVICE}"
        )


ADVICE = "Use easier or harder problems, more responses a prompt, or a higher cap."


def what_was_dropped(counts: Mapping[str, float]) -> str:
    """The counts of dropped groups for people; the keys are those of metrics without ``groups/``."""
    text = f"{counts['dropped_right']:.0f} were all right and {counts['dropped_wrong']:.0f} all wrong"
    alike = counts["dropped_alike"]
    return text + (f", and {alike:.0f} had equal scores, their accuracy not being known" if alike else "")
