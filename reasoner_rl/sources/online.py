"""Fresh batches: prompts -> rollouts -> rewards, with DAPO's dynamic sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.advantages.filters import Filtered, filter_groups
from reasoner_rl.advantages.spread import EqualScores, spread_metrics
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import UserError
from reasoner_rl.metrics import Metrics, merge, total
from reasoner_rl.observability.measurements import PhaseTimer, rollout_metrics, staleness_metrics
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, write_rollouts
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.prompts.selection import SelectingSampler
from reasoner_rl.reward_models.component import judged
from reasoner_rl.reward_models.judges import Judge
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rollout.engine import Generator
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.sources.expected_lengths import ExpectedLengths
from reasoner_rl.sources.filling import Filler
from reasoner_rl.sources.launches import Launch, read_launches, save_launches, state_of
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.sources.selecting import Selection
from reasoner_rl.types import Prompt, ScoredGroup

# In a checkpoint: groups that are not trained on as yet, and groups with responses that have not ended.
SURPLUS, PUT_OFF, AHEAD = "surplus.parquet", "put_off.parquet", "ahead.parquet"


class OnlineSource:
    """Implements `Source`: generates and scores groups until a step's batch is full.

    See `BatchBuilder` for which groups make the batch. Surplus groups open the next step's batch unless they have
    become too old.
    """

    generates = True

    def __init__(
        self,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        sampler: OrderedSampler | SelectingSampler,
        generator: Generator,
        rewards: Rewards,
        timer: PhaseTimer,
        judge: Judge | None = None,
        *,
        goes_on: bool = False,
        returns: int = 0,
    ) -> None:
        """judge: the recipe's reward model, if it has one. goes_on, returns: see `Filler`."""
        self._judge = judge
        self._config = config
        self._prompts = prompts
        self._sampler = sampler
        self._timer = timer
        self._lengths = ExpectedLengths() if config.batch.longest_first else None
        self._filler = Filler(
            *(config, prompts, sampler, generator, rewards, timer, self._lengths),
            goes_on=goes_on,
            returns=returns,
        )
        selecting = config.data.selection
        self._selection = (
            Selection(sampler, selecting.importance_weights)
            if selecting is not None and isinstance(sampler, SelectingSampler)
            else None
        )
        self._surplus: list[ScoredGroup] = []
        self._put_off: list[Launch] = []
        self._equal_scores = EqualScores()
        self._all_right: set[str] = set()  # uids of prompts that the present policy has answered right

    def pause(self) -> None:
        """See `Source.pause`."""
        self._filler.pause()

    def before_new_weights(self) -> None:
        """See `Source.before_new_weights`."""
        ahead = self._config.batch.ahead
        if ahead is None or ahead.in_flight == "continue":
            self._filler.pause()

    def advance(self) -> None:
        """See `Source.advance`."""
        self._filler.advance()

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        ahead = self._filler.ahead()
        return {
            "sampler": self._sampler.state(),
            "all_right": sorted(self._all_right),
            **({"selection": self._selection.state()} if self._selection else {}),
            **({"lengths": self._lengths.state()} if self._lengths else {}),
            **({"put_off": state_of(self._put_off)} if self._put_off else {}),
            **({"ahead": state_of(ahead)} if ahead else {}),
        }

    def save(self, folder: Path, step: int) -> None:
        """Write the surplus groups, in the format of rollout records."""
        write_rollouts(folder / SURPLUS, step, self._surplus)
        if self._put_off:
            save_launches(folder / PUT_OFF, step, self._put_off)
        if ahead := self._filler.ahead():
            save_launches(folder / AHEAD, step, ahead)

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """See `Source.restore`. Raises DataError if the surplus groups cannot be read."""
        self._sampler.restore(state["sampler"])
        self._surplus = groups_of(read_rollouts(folder / SURPLUS))
        self._all_right = set(state["all_right"])
        if self._selection:
            self._selection.restore(state["selection"])
        if self._lengths:
            self._lengths.restore(state.get("lengths", []))
        self._put_off = (
            read_launches(folder / PUT_OFF, state["put_off"], self._prompts) if "put_off" in state else []
        )
        if "ahead" in state:
            self._filler.restore(read_launches(folder / AHEAD, state["ahead"], self._prompts))

    def end(self) -> str | None:
        """Why no more batches are of use: the present policy was seen to answer every prompt right."""
        if len(self._all_right) < len(self._prompts):
            return None
        return (
            f"all responses to all {len(self._all_right)} prompts of {self._config.data.train.label} were right in a "
            "whole pass over the data, and nothing is left to learn"
        )

    def next(self, step: int, version: int) -> StepBatch:
        """Return a full batch for ``step``, or what the cap on generated prompts allowed, which may be nothing.

        Metrics of accuracy, reward and lengths are of all generated responses, kept or not.
        Raises UserError, with the counts, if that is too little and dynamic_sampling.when_exhausted is "fail".
        """
        dynamic = self._config.algorithm.dynamic_sampling
        fresh_enough = [g for g in self._surplus if version - g.latest_version <= dynamic.max_staleness]
        filled = self._filler.fill(step, fresh_enough, self._put_off)
        kept, generated, builder = filled.kept, filled.groups, filled.builder
        left = builder.launched - len(builder.used)
        filtered = filter_groups(generated) if dynamic.enabled else Filtered(generated, [], [], [])
        counts = {
            "generated": len(generated),
            "dropped_right": len(filtered.all_right),
            "dropped_wrong": len(filtered.all_wrong),
            "dropped_alike": len(filtered.alike),
        }
        if len(kept) < builder.wanted and dynamic.when_exhausted == "fail":
            # A checkpoint that is made now must let the same prompts come again.
            self._filler.go_back(filled.before)
            raise self._shortage(step, len(kept), counts)
        self._remember(kept, filtered)
        self._put_off = filled.put_off
        if self._lengths:
            self._lengths.learn(filled.indices, generated)
        selecting = self._selection.learn(filled.indices, generated) if self._selection else {}
        kept, rest = kept[: builder.wanted], kept[builder.wanted :]
        counts |= {
            "kept": len(kept),
            "skipped_steps": int(not kept),
            "stale": len(self._surplus) - len(fresh_enough),
            "reused": len(fresh_enough),
            "surplus": len(rest),
            "aborted": 0 if self._config.batch.steps_ahead else left,
        }
        if self._config.batch.put_off is not None:
            counts["put_off"] = filled.newly_put_off
        if self._config.batch.steps_ahead:
            counts["ahead"] = left
        self._surplus = rest
        kept, judging = self._with_model_scores(kept)
        # With a reward model scores are whole only where it has judged, and that is what is trained on.
        whole = kept if self._judge is not None else generated
        counted: Metrics = {f"groups/{name}": total(count) for name, count in counts.items()}
        return StepBatch(
            samples_of(kept, version, self._selection.weights(kept) if self._selection else None),
            merge(
                [
                    *(counted, selecting, judging, rollout_metrics(generated), reward_metrics(generated)),
                    *(spread_metrics(whole), staleness_metrics(kept, version)),
                ]
            ),
            generated_tokens=filled.added_tokens,
            groups=kept,
            dropped=[*filtered.all_right, *filtered.all_wrong, *filtered.alike],
            skipped_because="" if kept else _nothing_kept(counts),
            warning=self._warning(kept),
        )

    def _warning(self, kept: list[ScoredGroup]) -> str:
        """A warning if the scores of groups do not differ, for algorithms that compare the responses to a prompt."""
        algorithm = self._config.algorithm
        unfiltered = not algorithm.dynamic_sampling.enabled
        message = self._equal_scores.message(kept) if algorithm.compares_in_groups and unfiltered else None
        return f"{message}. {ADVICE_ON_EQUAL_SCORES}" if message else ""

    def _with_model_scores(self, kept: list[ScoredGroup]) -> tuple[list[ScoredGroup], Metrics]:
        """Add the reward model's scores, which it gives only of what is trained on."""
        section = self._config.reward_model
        if self._judge is None or section is None or not kept:
            return kept, {}
        with self._timer("reward_model"):
            return judged(kept, self._judge, section.weight)

    def _remember(self, kept: list[ScoredGroup], filtered: Filtered) -> None:
        """Take note of the prompts that are all right, or forget them: the policy will change, or one is not."""
        if kept or filtered.all_wrong or filtered.alike:
            self._all_right.clear()
        else:
            self._all_right |= {group.prompt.uid for group in filtered.all_right}

    def _shortage(self, step: int, kept: int, counts: dict[str, int]) -> UserError:
        return UserError(
            f"step {step}: {counts['generated']} generated groups (the most that batch.prompts_per_generation and "
            f"algorithm.dynamic_sampling.max_generation_batches allow) gave {kept} of the "
            f"{self._config.batch.prompts_per_step} wanted: {what_was_dropped(counts)}. {ADVICE}"
        )


ADVICE = "Use easier or harder problems, more responses per prompt, or a higher cap."


ADVICE_ON_EQUAL_SCORES = (
    "Check whether problems are too hard or too easy, whether responses are cut off, and whether the verifier finds "
    "their answers. algorithm.dynamic_sampling.enabled=true draws other problems in place of such groups. The warning "
    "is printed once for as long as this lasts; groups/equal_share is logged at every step"
)


def _nothing_kept(counts: Mapping[str, int]) -> str:
    return f"none of the {counts['generated']} groups generated can be trained on; {what_was_dropped(counts)}"


def what_was_dropped(counts: Mapping[str, int]) -> str:
    """The counts of dropped groups for people; the keys are those of metrics without ``groups/``."""
    text = f"{counts['dropped_right']} were all right and {counts['dropped_wrong']} all wrong"
    alike = counts["dropped_alike"]
    return text + (f", and {alike} had equal scores, their accuracy not being known" if alike else "")
