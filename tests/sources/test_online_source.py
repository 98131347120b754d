"""Filling a step's batch: filter, surplus, staleness, the cap. Generation and scoring are played by fakes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import DataError, UserError
from reasoner_rl.metrics import values
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.prompts.selection import Outcome, SelectingSampler
from reasoner_rl.rewards.runner import RewardTask
from reasoner_rl.rollout.engine import StepOutput
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.sources.selecting import labels_of, measured_outcomes
from reasoner_rl.trainer.train import prompt_sampler
from reasoner_rl.types import Prompt, Reward, Rollout

RIGHT, WRONG, MIXED = "right", "wrong", "mixed"
PARTIAL, SAME = "partial", "same"  # scores without accuracy: different ones, equal ones


class FakeGenerator:
    """Answers every prompt with its index, by the policy version that it is told.

    A turn finishes one request: the first in flight, or the one that ``finish`` chooses, given their prompts.
    """

    def __init__(self) -> None:
        self.version = 0
        self.launched: list[int] = []  # indices of the prompts
        self.seeds: list[int] = []
        self.works: list[Any] = []
        self.most_in_flight = 0
        self.aborted = 0
        self.finish: Callable[[list[int]], int] = lambda prompts: 0

    def submit(self, requests: Sequence[Any], sampling: Any) -> None:
        self.launched += [request.prompt_ids[0] for request in requests]
        self.seeds += [request.seed for request in requests]
        self.works += requests
        self.most_in_flight = max(self.most_in_flight, len(self.works))

    def step(self) -> StepOutput:
        request = self.works.pop(self.finish([request.prompt_ids[0] for request in self.works]))
        group = [
            Rollout((request.prompt_ids[0], sample), (-1.0, -1.0), "stop", self.version, str(sample))
            for sample in range(request.samples)
        ]
        return StepOutput([(request.number, group)], request.samples)

    def cancel(self) -> None:
        self.aborted += len(self.works)
        self.works.clear()


class FakeRewards:
    """Scores by the fate written in a prompt's ground truth; in a mixed group the first response is right."""

    def score(self, tasks: Sequence[RewardTask], progress: Any = None) -> list[Reward]:
        rewards = []
        for task in tasks:
            if task.ground_truth in (PARTIAL, SAME):
                score = 0.1 if task.ground_truth == SAME else 0.1 + float(task.response)
                rewards.append(Reward(score, None, {}))
                continue
            accuracy = float(
                task.ground_truth == RIGHT or (task.ground_truth == MIXED and task.response == "0")
            )
            rewards.append(Reward(2 * accuracy - 1, accuracy, {"fake": accuracy}))
        return rewards


class Setting:
    """A source over prompts of chosen fates, in the order of the file."""

    def __init__(
        self,
        fates: Sequence[str],
        *,
        wanted: int,
        at_a_time: int | None = None,
        selection: dict[str, Any] | None = None,
        algorithm: dict[str, Any] | None = None,
        **dynamic: Any,
    ):
        config = OnlineConfig.model_validate(
            {
                "run": {"output_dir": Path("unused"), "seed": 5},
                "model": {"path": "unused"},
                "data": {
                    "train": {"path": "unused.jsonl"},
                    **({"shuffle": False} if selection is None else {"selection": selection}),
                },
                "rollout": {"responses_per_prompt": 2},
                "algorithm": {**(algorithm or {"kind": "dapo"}), "dynamic_sampling": dynamic},
                "batch": {
                    "prompts_per_step": wanted,
                    "prompts_per_update": 1,
                    "prompts_per_generation": at_a_time,
                },
                "logging": {"progress": False},
            }
        )
        prompts = [Prompt(f"p/{i}", (i,), f"prompt {i}", fate, "test") for i, fate in enumerate(fates)]
        self.generator = FakeGenerator()
        rewards: Any = FakeRewards()
        self.sampler = prompt_sampler(config, prompts)
        generator: Any = self.generator
        self.source = OnlineSource(config, prompts, self.sampler, generator, rewards, PhaseTimer())

    def step(self, step: int, version: int | None = None) -> tuple[list[int], dict[str, float]]:
        """Make a batch; return the indices of the prompts kept and the counts."""
        self.generator.version = step - 1 if version is None else version
        batch = self.source.next(step, self.generator.version)
        metrics = values(batch.metrics)
        counts = {
            name.removeprefix("groups/"): n for name, n in metrics.items() if name.startswith("groups/")
        }
        return [group.prompt.token_ids[0] for group in batch.groups], counts

    @property
    def surplus(self) -> list[int]:
        return [group.prompt.token_ids[0] for group in self.source._surplus]


def test_groups_that_teach_nothing_are_dropped_counted_and_replaced() -> None:
    setting = Setting([MIXED, RIGHT, WRONG, WRONG, MIXED, MIXED, RIGHT, MIXED, MIXED], wanted=4)
    kept, counts = setting.step(1)
    assert kept == [0, 4, 5, 7], "prompt order"
    assert setting.generator.launched == list(range(8)), "one prompt for each that was dropped, and no more"
    assert setting.generator.most_in_flight == 4
    assert counts == pytest.approx(
        {
            "generated": 8,
            "dropped_right": 2,
            "dropped_wrong": 2,
            "dropped_alike": 0,
            "skipped_steps": 0,
            "kept": 4,
            "surplus": 0,
            "aborted": 0,
            "stale": 0,
            "reused": 0,
            "equal_share": 4 / 8,
            "dead_share": 2 / 8,
            "reward_std": 4 * 2**0.5 / 8,  # of 1 and -1 in the groups that differ
        }
    )


def test_a_dropped_group_is_replaced_while_the_others_continue() -> None:
    setting = Setting([MIXED, WRONG, MIXED, MIXED], wanted=3)
    in_flight: list[list[int]] = []

    def last(prompts: list[int]) -> int:
        in_flight.append(prompts)
        return prompts.index(1) if 1 in prompts else len(prompts) - 1

    setting.generator.finish = last
    assert setting.step(1)[0] == [0, 2, 3]
    assert in_flight[:2] == [[0, 1, 2], [0, 2, 3]], "prompt 3 starts as soon as group 1 is dropped"


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("at_a_time", [3, 4, 7])
def test_groups_are_accepted_in_prompt_order_whatever_time_they_take(
    at_a_time: int, max_staleness: int
) -> None:
    """Had the first finished been taken, short answers would be favoured."""
    fates = [MIXED, RIGHT, MIXED, WRONG, MIXED, MIXED, RIGHT, MIXED, MIXED, MIXED] * 3

    def batches(finish: Callable[[list[int]], int]) -> list[Any]:
        setting = Setting(fates, wanted=4, at_a_time=at_a_time, max_staleness=max_staleness)
        setting.generator.finish = finish
        outcomes = [setting.step(step) for step in (1, 2, 3)]
        for _, counts in outcomes:
            counts.pop("aborted")  # how much was begun for nothing does depend on time
        return [*outcomes, setting.surplus, setting.source.state()]

    shuffle = random.Random(0)
    in_order = batches(lambda prompts: 0)
    assert in_order[0][0] == [0, 2, 4, 5]
    assert batches(lambda prompts: len(prompts) - 1) == in_order
    for _ in range(5):
        assert batches(lambda prompts: shuffle.randrange(len(prompts))) == in_order


def test_accuracy_is_of_everything_generated_and_tokens_are_counted() -> None:
    setting = Setting([MIXED, RIGHT, WRONG, MIXED], wanted=2)
    batch = setting.source.next(1, 0)
    assert values(batch.metrics)["reward/accuracy"] == pytest.approx((1 + 2 + 0 + 1) / 8)
    assert batch.generated_tokens == 4 * 2 * 2
    assert [group.prompt.uid for group in batch.dropped] == ["p/1", "p/2"]


def test_without_the_filter_every_group_is_kept() -> None:
    setting = Setting([RIGHT, WRONG, MIXED, RIGHT], wanted=2, enabled=False)
    assert setting.step(1)[0] == [0, 1]
    kept, counts = setting.step(2)
    assert kept == [2, 3]
    assert (counts["dropped_right"], counts["dropped_wrong"], counts["generated"]) == (0, 0, 2)


def test_without_the_filter_no_more_is_generated_than_trained_on() -> None:
    setting = Setting([MIXED] * 9, wanted=2, enabled=False)
    assert setting.step(1)[0] == [0, 1]
    assert setting.generator.launched == [0, 1]


def test_no_more_prompts_are_in_the_works_than_asked_for() -> None:
    setting = Setting([MIXED] * 12, wanted=5, at_a_time=2)
    assert setting.step(1)[0] == [0, 1, 2, 3, 4]
    assert setting.generator.most_in_flight == 2
    assert setting.surplus == []


def test_what_is_generated_beyond_the_batch_opens_the_next_step() -> None:
    setting = Setting(
        [MIXED, WRONG, MIXED, MIXED, MIXED, MIXED, MIXED, MIXED, RIGHT, *[MIXED] * 9], wanted=3, at_a_time=5
    )
    assert setting.step(1)[0] == [0, 2, 3]
    assert setting.surplus == [4, 5]
    kept, counts = setting.step(2)
    assert kept == [4, 5, 6], "surplus first, in its order, then what is new"
    assert (counts["reused"], counts["generated"], counts["surplus"]) == (2, 4, 2)
    assert setting.surplus == [7, 9]


def test_a_surplus_that_is_a_whole_batch_needs_no_generation() -> None:
    setting = Setting([MIXED] * 10, wanted=2, at_a_time=4)
    setting.step(1)
    kept, counts = setting.step(2)
    assert kept == [2, 3]
    assert counts["generated"] == 0
    assert setting.step(3)[0] == [4, 5]


def test_surplus_older_than_allowed_is_dropped() -> None:
    setting = Setting([MIXED] * 12, wanted=1, at_a_time=3, max_staleness=2)
    assert setting.step(1)[0] == [0]
    assert setting.surplus == [1, 2]
    kept, counts = setting.step(2, version=2)
    assert (kept, counts["stale"]) == ([1], 0)
    kept, counts = setting.step(3, version=3)
    assert kept == [3], "group 2 is three versions old"
    assert (counts["stale"], counts["reused"]) == (1, 0)


def test_without_surplus_what_is_not_needed_is_aborted_and_comes_again() -> None:
    setting = Setting([MIXED, WRONG, *[MIXED] * 10], wanted=2, at_a_time=5, max_staleness=0)
    kept, counts = setting.step(1)
    assert kept == [0, 2]
    assert setting.surplus == []
    assert (counts["generated"], counts["aborted"]) == (3, 3), "of six, group 1's replacement included"
    assert setting.generator.aborted == 3
    assert setting.step(2)[0] == [3, 4], "by the new policy"


def test_an_error_leaves_nothing_in_the_works_and_no_prompt_is_lost() -> None:
    setting = Setting([MIXED] * 8, wanted=4)

    def fail(prompts: list[int]) -> int:
        raise UserError("the verifier's file is gone")

    setting.generator.finish = fail
    with pytest.raises(UserError):
        setting.step(1)
    assert setting.generator.aborted == 4
    setting.generator.finish = lambda prompts: 0
    assert setting.step(1)[0] == [0, 1, 2, 3]


def test_no_more_is_generated_than_can_be_used_before_it_is_stale() -> None:
    setting = Setting([MIXED] * 20, wanted=2, at_a_time=9, max_staleness=1)
    assert setting.step(1)[0] == [0, 1]
    assert setting.surplus == [2, 3], "for the one step that may still use them"


def test_every_generation_has_its_own_randomness() -> None:
    setting = Setting([WRONG, MIXED], wanted=2)
    setting.step(1)
    setting.step(2)
    seeds = setting.generator.seeds
    assert len(seeds) >= 6
    assert len(set(seeds)) == len(seeds), (
        "the same prompt again in a step, or in another, draws other responses"
    )


def test_at_the_cap_the_groups_at_hand_are_trained_on() -> None:
    setting = Setting([WRONG, MIXED, WRONG, WRONG], wanted=2, max_generation_batches=2)
    kept, counts = setting.step(1)
    assert kept == [1]
    assert (counts["kept"], counts["generated"], counts["dropped_wrong"]) == (1, 4, 3)


def test_at_the_cap_a_run_may_be_told_to_fail() -> None:
    setting = Setting([WRONG, MIXED, RIGHT, WRONG], wanted=2, max_generation_batches=2, when_exhausted="fail")
    before = setting.source.state()["sampler"]
    with pytest.raises(UserError) as error:
        setting.step(7)
    assert setting.source.state()["sampler"] == before, "the same prompts come again after a resumption"
    assert str(error.value) == (
        "step 7: 4 generated groups (the most that batch.prompts_per_generation and "
        "algorithm.dynamic_sampling.max_generation_batches allow) gave 1 of the 2 wanted: 1 were all right and "
        "2 all wrong. Use easier or harder problems, more responses per prompt, or a higher cap."
    )


@pytest.mark.parametrize("fates", [[WRONG, RIGHT, WRONG, WRONG], [WRONG] * 4, [RIGHT] * 9, [SAME] * 3])
def test_a_step_without_a_usable_group_is_empty_and_counted(fates: list[str]) -> None:
    setting = Setting(fates, wanted=1, max_generation_batches=3)
    kept, counts = setting.step(1)
    assert kept == []
    assert (counts["kept"], counts["skipped_steps"], counts["generated"]) == (0, 1, 3)
    dropped = [counts[f"dropped_{kind}"] for kind in ("right", "wrong", "alike")]
    assert dropped == [fates[:3].count(kind) for kind in (RIGHT, WRONG, SAME)]
    setting.generator.launched.clear()
    setting.step(2)
    assert setting.generator.launched[0] == 3 % len(fates), (
        "the data continue after the prompts that were seen"
    )


def test_a_shortage_without_a_usable_group_may_be_told_to_fail() -> None:
    for fate in (RIGHT, WRONG, SAME):
        with pytest.raises(UserError, match="gave 0 of the 2 wanted"):
            Setting([fate] * 9, wanted=2, max_generation_batches=3, when_exhausted="fail").step(4)


def test_groups_of_unknown_accuracy_are_kept_where_scores_differ() -> None:
    setting = Setting([PARTIAL, SAME, PARTIAL, SAME], wanted=2)
    kept, counts = setting.step(1)
    assert kept == [0, 2]
    assert (counts["dropped_alike"], counts["dropped_right"], counts["dropped_wrong"]) == (1, 0, 0)


def test_only_a_whole_pass_that_was_all_right_leaves_nothing_to_learn() -> None:
    """A draw that is all right says nothing of the rest."""
    setting = Setting([RIGHT] * 7, wanted=2, max_generation_batches=1)
    seen = []
    for step in (1, 2, 3, 4):
        setting.step(step)
        seen.append(setting.source.end())
    assert seen == [
        None,
        None,
        None,
        "all responses to all 7 prompts of unused were right in a whole pass over the data, and nothing is left to "
        "learn",
    ]
    assert setting.source.state()["all_right"] == [f"p/{i}" for i in range(7)]


@pytest.mark.parametrize("other", [WRONG, MIXED, SAME, PARTIAL])
def test_the_pass_begins_anew_after_a_group_that_was_not_all_right(other: str) -> None:
    fates = [RIGHT] * 6
    setting = Setting(fates, wanted=2, max_generation_batches=1)
    setting.step(1)
    prompts: Any = setting.source._prompts
    prompts[2] = Prompt("p/2", (2,), "prompt 2", other, "test")
    kept, _ = setting.step(2)
    assert kept == ([2] if other in (MIXED, PARTIAL) else [])
    assert setting.source.state()["all_right"] == []
    prompts[2] = Prompt("p/2", (2,), "prompt 2", RIGHT, "test")
    for step in (3, 4):
        setting.step(step)
        assert setting.source.end() is None, "prompts 2 and 3 have not been answered since"
    setting.step(5)
    assert setting.source.end() is not None


def test_equal_rewards_are_warned_of_once_where_every_group_is_trained_on() -> None:
    fates = [WRONG, WRONG, WRONG, WRONG, MIXED, WRONG, RIGHT, WRONG]
    setting = Setting(fates, wanted=2, enabled=False)
    warnings = [setting.source.next(step, 0).warning for step in range(1, 5)]
    assert warnings[0].startswith("all rewards are -1: they say of no response that it is better")
    assert "algorithm.dynamic_sampling.enabled=true draws other problems" in warnings[0]
    assert warnings[1:3] == ["", ""]
    assert warnings[3].startswith("within every group rewards are equal")
    filtered = Setting([*fates[:4], MIXED, MIXED], wanted=2)
    assert filtered.source.next(1, 0).warning == ""


@pytest.mark.parametrize(
    ("algorithm", "warned"),
    [
        ({"kind": "reinforce_plus_plus", "baseline": "group"}, True),
        ({"kind": "reinforce_plus_plus"}, False),
        ({"kind": "ppo"}, False),
    ],
)
def test_equal_rewards_are_warned_of_where_responses_are_judged_within_groups(
    algorithm: dict[str, Any], warned: bool
) -> None:
    setting = Setting([WRONG, WRONG], wanted=2, enabled=False, algorithm=algorithm)
    assert bool(setting.source.next(1, 0).warning) == warned


def test_selection_learns_from_what_counts_and_draws_what_teaches() -> None:
    """Two prompts in sixteen teach; once all were seen, they come in every step."""
    fates = [MIXED if i in (3, 11) else RIGHT for i in range(16)]
    selection = {"half_life_steps": None, "floor": 0.02}
    setting = Setting(fates, wanted=2, selection=selection, max_generation_batches=8, max_staleness=0)
    for step in range(1, 21):
        setting.step(step)
    begun = len(setting.generator.launched)
    kept = [setting.step(step) for step in range(21, 41)]
    assert all(sorted(groups) == [3, 11] for groups, _ in kept)
    # Uniform draws without replacement reach the second of two in sixteen after 34 / 3 on average.
    assert (len(setting.generator.launched) - begun) / 20 < 0.7 * 34 / 3


def test_selection_does_not_depend_on_the_time_that_groups_take() -> None:
    fates = [MIXED, RIGHT, MIXED, WRONG, MIXED, MIXED, RIGHT, MIXED, MIXED, MIXED] * 2

    def batches(finish: Callable[[list[int]], int]) -> list[Any]:
        setting = Setting(fates, wanted=4, at_a_time=6, selection={}, max_staleness=1)
        setting.generator.finish = finish
        kept = [setting.step(step)[0] for step in (1, 2, 3)]
        return [*kept, setting.source.state()]

    in_order = batches(lambda prompts: 0)
    assert batches(lambda prompts: len(prompts) - 1) == in_order


def test_selection_is_resumed(tmp_path: Path) -> None:
    fates = [MIXED, RIGHT, WRONG, MIXED] * 4
    selection = {"importance_weights": True}
    first, second = (Setting(fates, wanted=3, at_a_time=5, selection=selection) for _ in range(2))
    first.step(1)
    first.source.save(tmp_path, 1)
    second.source.restore(json.loads(json.dumps(first.source.state())), tmp_path)
    for step in (2, 3):
        assert first.step(step) == second.step(step)
    assert first.source.state() == second.source.state()


def test_importance_weights_have_a_mean_of_one_and_undo_the_chances() -> None:
    selection = {"importance_weights": True, "half_life_steps": None}
    setting = Setting([MIXED, MIXED, RIGHT, MIXED], wanted=3, selection=selection, max_staleness=0)
    setting.step(1)
    sampler = setting.sampler
    assert isinstance(sampler, SelectingSampler)
    sampler.learn([Outcome(0, 32, 32)])  # as if this prompt had been all right many times
    expected = dict(zip(range(4), sampler.weights(range(4)), strict=True))
    setting.generator.version = 1
    batch = setting.source.next(2, 1)
    weights = {sample.prompt_ids[0].item(): sample.weight for sample in batch.samples}
    assert sum(weights.values()) / len(weights) == pytest.approx(1)
    first = next(iter(weights))
    assert {i: w / weights[first] for i, w in weights.items()} == pytest.approx(
        {i: expected[int(i)] / expected[int(first)] for i in weights}
    )


def test_selection_needs_accuracies() -> None:
    with pytest.raises(UserError, match=r"p/\d+: return a dict with accuracy"):
        Setting([PARTIAL] * 4, wanted=2, selection={}).step(1)


def test_measured_pass_rates_must_be_rates() -> None:
    prompts = [
        Prompt("p/0", (0,), "", "", "", {"pass_rate": 0.25, "pass_rate_samples": 8}),
        Prompt("p/1", (1,), "", "", ""),
    ]
    assert measured_outcomes(prompts) == [Outcome(0, 2.0, 8)]
    with pytest.raises(DataError, match=r"p/0: pass_rate .* 1\.5 and 8"):
        measured_outcomes([Prompt("p/0", (0,), "", "", "", {"pass_rate": 1.5, "pass_rate_samples": 8})])


def test_prompts_are_grouped_by_a_column_that_they_share() -> None:
    prompts = [Prompt(f"p/{i}", (i,), "", "", "", {"index": i, "terms": 3 + i % 2}) for i in range(4)]
    assert labels_of(prompts, None) == []
    assert labels_of(prompts, "terms") == ["3", "4", "3", "4"]
    with pytest.raises(DataError, match=r"p/0 has no column 'term'.* Did you mean 'terms'\?"):
        labels_of(prompts, "term")
    with pytest.raises(DataError, match="'index', which has 4 values in 4 prompts"):
        labels_of(prompts, "index")
