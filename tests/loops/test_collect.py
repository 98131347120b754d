"""Filling a step's batch: filter, surplus, staleness, the cap. Generation and scoring are played by fakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import NothingToLearn, UserError
from reasoner_rl.loops.collect import GroupCollector
from reasoner_rl.metrics import values
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.rewards.runner import RewardTask
from reasoner_rl.types import Prompt, Reward, Rollout

RIGHT, WRONG, MIXED = "right", "wrong", "mixed"


class FakeGenerator:
    """Answers every prompt with its index, by the policy version that it is told."""

    def __init__(self) -> None:
        self.version = 0
        self.batches: list[list[int]] = []  # indices of the prompts of each call
        self.seeds: list[int] = []

    def generate(self, requests: Sequence[Any], sampling: Any, progress: Any = None) -> list[list[Rollout]]:
        self.batches.append([request.prompt_ids[0] for request in requests])
        self.seeds += [request.seed for request in requests]
        return [
            [
                Rollout((request.prompt_ids[0], sample), (-1.0, -1.0), "stop", self.version, str(sample))
                for sample in range(request.samples)
            ]
            for request in requests
        ]


class FakeRewards:
    """Scores by the fate written in a prompt's ground truth; in a mixed group the first response is right."""

    def score(self, tasks: Sequence[RewardTask], progress: Any = None) -> list[Reward]:
        rewards = []
        for task in tasks:
            accuracy = float(
                task.ground_truth == RIGHT or (task.ground_truth == MIXED and task.response == "0")
            )
            rewards.append(Reward(2 * accuracy - 1, accuracy, {"fake": accuracy}))
        return rewards


class Setting:
    """A collector over prompts of chosen fates, in the order of the file."""

    def __init__(self, fates: Sequence[str], *, wanted: int, at_a_time: int | None = None, **dynamic: Any):
        config = OnlineConfig.model_validate(
            {
                "run": {"output_dir": Path("unused"), "seed": 5},
                "model": {"path": "unused"},
                "data": {"train": {"path": "unused.jsonl"}, "shuffle": False},
                "rollout": {"responses_per_prompt": 2},
                "algorithm": {"kind": "dapo", "dynamic_sampling": dynamic},
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
        sampler = PromptSampler(len(prompts), 5, shuffle=False)
        self.collector = GroupCollector(config, prompts, sampler, self.generator, rewards, PhaseTimer())

    def step(self, step: int, version: int | None = None) -> tuple[list[int], dict[str, float]]:
        """Collect; return the indices of the prompts kept and the counts."""
        self.generator.version = step - 1 if version is None else version
        collected = self.collector.collect(step, self.generator.version)
        metrics = values(collected.metrics)
        counts = {
            name.removeprefix("groups/"): n for name, n in metrics.items() if name.startswith("groups/")
        }
        return [group.prompt.token_ids[0] for group in collected.groups], counts

    @property
    def surplus(self) -> list[int]:
        return [group.prompt.token_ids[0] for group in self.collector.surplus]


def test_groups_that_teach_nothing_are_dropped_counted_and_replaced() -> None:
    setting = Setting([MIXED, RIGHT, WRONG, WRONG, MIXED, MIXED, RIGHT, MIXED], wanted=4)
    kept, counts = setting.step(1)
    assert kept == [0, 4, 5, 7], "prompt order"
    assert setting.generator.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert counts == {
        "generated": 8,
        "dropped_right": 2,
        "dropped_wrong": 2,
        "generation_batches": 2,
        "kept": 4,
        "surplus": 0,
        "discarded": 0,
        "stale": 0,
        "reused": 0,
    }


def test_accuracy_is_of_everything_generated_and_tokens_are_counted() -> None:
    setting = Setting([MIXED, RIGHT, WRONG, MIXED], wanted=2, at_a_time=4)
    collected = setting.collector.collect(1, 0)
    assert values(collected.metrics)["reward/accuracy"] == pytest.approx((1 + 2 + 0 + 1) / 8)
    assert collected.generated_tokens == 4 * 2 * 2


def test_without_the_filter_every_group_is_kept() -> None:
    setting = Setting([RIGHT, WRONG, MIXED, RIGHT], wanted=2, enabled=False)
    assert setting.step(1)[0] == [0, 1]
    kept, counts = setting.step(2)
    assert kept == [2, 3]
    assert (counts["dropped_right"], counts["dropped_wrong"], counts["generation_batches"]) == (0, 0, 1)


def test_a_small_generation_batch_is_repeated_until_the_step_is_full() -> None:
    setting = Setting([MIXED] * 12, wanted=5, at_a_time=2)
    assert setting.step(1)[0] == [0, 1, 2, 3, 4]
    assert setting.generator.batches == [[0, 1], [2, 3], [4, 5]]
    assert setting.surplus == [5]


def test_a_large_generation_batch_leaves_a_surplus_that_opens_the_next_step() -> None:
    setting = Setting([MIXED, MIXED, WRONG, MIXED, MIXED, MIXED, RIGHT, MIXED], wanted=3, at_a_time=4)
    assert setting.step(1)[0] == [0, 1, 3]
    assert setting.surplus == []
    kept, counts = setting.step(2)
    assert (kept, counts["reused"], counts["surplus"]) == ([4, 5, 7], 0, 0)
    setting = Setting([MIXED] * 10, wanted=3, at_a_time=5)
    assert setting.step(1)[0] == [0, 1, 2]
    assert setting.surplus == [3, 4]
    kept, counts = setting.step(2)
    assert kept == [3, 4, 5], "surplus first, in its order, then what is new"
    assert (counts["reused"], counts["generated"], counts["surplus"]) == (2, 5, 4)
    kept, counts = setting.step(3)
    assert kept == [6, 7, 8]
    assert counts["generation_batches"] == 0, "nothing has to be generated"


def test_surplus_older_than_allowed_is_dropped() -> None:
    setting = Setting([MIXED] * 12, wanted=1, at_a_time=3, max_staleness=1)
    assert setting.step(1)[0] == [0]
    assert setting.step(2)[0] == [1]
    assert setting.surplus == [2]
    kept, counts = setting.step(3)
    assert kept == [3], "group 2 is two versions old"
    assert (counts["stale"], counts["reused"]) == (1, 0)


def test_no_staleness_means_no_surplus() -> None:
    setting = Setting([MIXED] * 12, wanted=2, at_a_time=3, max_staleness=0)
    kept, counts = setting.step(1)
    assert kept == [0, 1]
    assert setting.surplus == []
    assert counts["discarded"] == 1
    assert setting.step(2)[0] == [3, 4]


def test_every_generation_has_its_own_randomness() -> None:
    setting = Setting([WRONG, MIXED], wanted=2, at_a_time=2)
    setting.step(1)
    setting.step(2)
    seeds = setting.generator.seeds
    assert len(seeds) == 8
    assert len(set(seeds)) == 8, "the same prompt in another generation batch or step draws other responses"


def test_at_the_cap_the_groups_at_hand_are_trained_on() -> None:
    setting = Setting([WRONG, MIXED, WRONG, WRONG], wanted=2, max_generation_batches=2)
    kept, counts = setting.step(1)
    assert kept == [1]
    assert (counts["kept"], counts["generation_batches"], counts["dropped_wrong"]) == (1, 2, 3)


def test_at_the_cap_a_run_may_be_told_to_fail() -> None:
    setting = Setting([WRONG, MIXED, RIGHT, WRONG], wanted=2, max_generation_batches=2, when_exhausted="fail")
    with pytest.raises(UserError) as error:
        setting.step(7)
    assert str(error.value) == (
        "step 7: 2 generation batches (algorithm.dynamic_sampling.max_generation_batches) gave 1 of the 2 "
        "groups wanted: of 4 generated, 1 were all right and 2 all wrong. Use easier or harder problems, more "
        "responses a prompt, or a higher cap."
    )


def test_nothing_to_train_on_is_an_error_even_when_a_shortage_is_accepted() -> None:
    setting = Setting([WRONG, RIGHT], wanted=1, max_generation_batches=3)
    with pytest.raises(UserError, match="gave 0 of the 1 groups wanted") as error:
        setting.step(1)
    assert not isinstance(error.value, NothingToLearn)


def test_when_every_group_is_all_right_nothing_is_left_to_learn() -> None:
    with pytest.raises(NothingToLearn, match="step 4: all 6 groups generated were all right"):
        Setting([RIGHT] * 9, wanted=2, max_generation_batches=3).step(4)
    with pytest.raises(UserError, match="gave 0 of the 2 groups wanted"):
        Setting([RIGHT] * 9, wanted=2, max_generation_batches=3, when_exhausted="fail").step(4)
