"""On-policy distillation: advantages by hand, a run in which the policy comes near its teacher, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_models import Batch, online_config
from pydantic import ValidationError

from reasoner_rl.advantages.group import advantages_in_groups
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.algorithms.distillation import Distillation
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.trainer.train import train

TEACHER = {"path": "unused"}


def distillation(updates: int = 1, **algorithm: Any) -> Distillation:
    config = online_config({"kind": "distillation", **algorithm}, updates=updates, teacher=TEACHER)
    built = build_algorithm(config)
    assert isinstance(built, Distillation)
    return built


def make_batch() -> Batch:
    return Batch([4, 1, 6, 3], [1.0, 0.0, -1.0, 1.0], [0, 0, 1, 1])


@pytest.mark.parametrize("updates", [1, 2])
def test_each_token_is_judged_by_the_teacher(updates: int) -> None:
    batch, algorithm = make_batch(), distillation(updates, teacher_weight=0.5)
    samples, metrics = algorithm.prepare(batch.masked(3), batch.models())
    assert algorithm.roles == ("policy", "teacher")
    assert batch.calls == ["teacher.logprobs", "policy.logprobs"]
    for sample, taught, own in zip(samples, batch.teacher, batch.policy, strict=True):
        torch.testing.assert_close(sample.advantages, 0.5 * (taught - own))
        assert sample.old_logprobs is not None
        assert torch.equal(sample.old_logprobs, own)
    trained = torch.cat([own - taught for own, taught in zip(batch.policy[:3], batch.teacher, strict=False)])
    assert values(metrics)["teacher/kl"] == pytest.approx(float(trained.mean()))


def test_beside_the_reward() -> None:
    batch = make_batch()
    algorithm = distillation(teacher_weight=2.0, reward_weight=0.5, advantage="leave_one_out")
    samples, _ = algorithm.prepare(batch.samples, batch.models())
    by_reward = advantages_in_groups([1.0, 0.0, -1.0, 1.0], [0, 0, 1, 1], "leave_one_out")
    assert by_reward == [1.0, -1.0, -2.0, 2.0]
    for sample, taught, own, reward in zip(samples, batch.teacher, batch.policy, by_reward, strict=True):
        torch.testing.assert_close(sample.advantages, 2.0 * (taught - own) + 0.5 * reward)


def test_a_response_of_an_earlier_policy_keeps_the_logprobs_of_its_sampling() -> None:
    batch = make_batch()
    given = [dataclasses.replace(batch.samples[0], on_policy=False), *batch.samples[1:]]
    samples, _ = distillation().prepare(given, batch.models())
    torch.testing.assert_close(samples[0].advantages, batch.teacher[0] - given[0].rollout_logprobs)
    torch.testing.assert_close(samples[1].advantages, batch.teacher[1] - batch.policy[1])


def test_keys_that_do_not_fit() -> None:
    for sections, rule in (
        ({"teacher": None}, "needs a teacher: set teacher.path"),
        ({"kind": "grpo"}, "teacher is for algorithm.kind distillation or custom; it is grpo"),
        ({"advantage": "group_mean"}, "advantage 'group_mean' has no effect with reward_weight 0"),
        (
            {"kl_in_reward": {"coefficient": 0.1}},
            "kl_in_reward.coefficient has no effect with reward_weight 0",
        ),
    ):
        teacher = {"teacher": sections.pop("teacher", TEACHER)}
        with pytest.raises(ValidationError, match=rule):
            online_config({"kind": "distillation", **sections}, **teacher)
    online_config({"kind": "distillation"}, responses=1, teacher=TEACHER)
    with pytest.raises(ValidationError, match="responses_per_prompt must be at least 2"):
        online_config({"kind": "distillation", "reward_weight": 1.0}, responses=1, teacher=TEACHER)


@pytest.fixture
def recipe(
    tiny_run: dict[str, Any], tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> dict[str, Any]:
    """The tiny run as distillation from another random model with the same tokenizer."""
    return tiny_run | {
        "run": tiny_run["run"] | {"output_dir": tmp_path / "run", "steps": 6},
        "teacher": {"path": str(tiny_checkpoint("llama-untied"))},
        "algorithm": {"kind": "distillation"},
        "batch": {"prompts_per_step": 4, "prompts_per_update": 2, "micro_batch_tokens": 200},
        "training": {"optimizer": {"lr": 1.0e-2}},
        "evaluation": {},
        "logging": {"tensorboard": False, "progress": False},
    }


def test_the_policy_comes_nearer_to_its_teacher(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert train(OnlineConfig.model_validate(recipe)) is not None
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    divergences = [row["teacher/kl"] for row in rows]
    assert len(divergences) == 6
    assert divergences[0] > 1, "two random models"
    assert divergences[-1] < 0.7 * divergences[0]
    assert not any((tmp_path / "run" / "checkpoints").glob("*/teacher")), "a frozen model is not saved"


def test_a_teacher_of_other_tokens_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    other = shutil.copytree(recipe["teacher"]["path"], tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.__getitem__)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    changed = OnlineConfig.model_validate(recipe | {"teacher": {"path": str(other)}})
    with pytest.raises(ConfigError, match=r"teacher\.path=.*other: its tokenizer differs .* first at id \d+"):
        train(changed)
    missing = OnlineConfig.model_validate(recipe | {"teacher": {"path": "./none"}})
    with pytest.raises(ConfigError, match=r"teacher\.path='./none'.*no such folder"):
        train(missing)
