"""`evaluate_checkpoint`: its report against a count by hand of the responses that it recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.loading import load_held_out
from reasoner_rl.types import Rollout


@pytest.fixture
def config(tiny_run: dict[str, Any], tmp_path: Path) -> EvalConfig:
    """Four samples a problem, of two held-out sets: all 5 problems, and 2 of them under another name."""
    path = tiny_run["evaluation"]["datasets"][0]["path"]
    return EvalConfig.model_validate(
        {
            "run": {"output_dir": tmp_path / "run", "seed": 3, "threads": 1},
            "model": tiny_run["model"],
            "rollout": {"sampling": {"max_response_tokens": 6}},
            "reward": tiny_run["reward"] | {"overlong": {}},
            "evaluation": {
                "datasets": [{"path": path}, {"path": path, "name": "two of them", "limit": 2}],
                "samples_per_prompt": 4,
            },
            "logging": {"progress": False},
        }
    )


def recorded(output: Path, name: str) -> list[list[dict[str, Any]]]:
    """The recorded lines of one set, problem by problem."""
    lines = [
        json.loads(line)
        for line in (output / "evaluations" / f"step_000000_{name}.jsonl").open(encoding="utf-8")
    ]
    return [lines[start : start + 4] for start in range(0, len(lines), 4)]


def test_the_report_is_what_the_recorded_responses_say(
    config: EvalConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = evaluate_checkpoint(config)
    fn = config.reward.functions[0].fn
    assert f"verifier: {fn}, which decides by itself what counts\n" in capsys.readouterr().out
    assert [report.dataset for report in reports] == ["heldout", "two of them"]
    for report, name, problems in zip(reports, ("heldout", "two of them"), (5, 2), strict=True):
        groups = recorded(tmp_path / "run", name)
        lines = [line for group in groups for line in group]
        assert (report.problems, report.samples_per_problem, len(groups)) == (problems, 4, problems)
        for line in lines:
            vowels = [letter for letter in line["response"] if letter in "aeiou"]
            assert line["accuracy"] == bool(vowels)
            assert line["extracted"] == (vowels[0] if vowels else None)
            assert line["advantage"] is None
        assert report.accuracy == pytest.approx(fmean(line["accuracy"] for line in lines))
        assert 0 < report.accuracy < 1, "nothing could be told from this set"
        assert report.pass_at_k == fmean(any(line["accuracy"] for line in group) for group in groups)
        votes = [Counter(line["extracted"] for line in group if line["extracted"]) for group in groups]
        assert report.majority_at_k == fmean(bool(vote) for vote in votes), "every answer found is right"
        assert report.mean_response_tokens == pytest.approx(fmean(line["tokens"] for line in lines))
        assert report.truncated_share == fmean(line["finish_reason"] == "length" for line in lines)
        assert report.unanswered_share == fmean(line["extracted"] is None for line in lines)
        assert report.ci_low < report.accuracy < report.ci_high
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["reports"] == [report.to_json() for report in reports]
    assert (written["model"], written["seed"]) == (config.model.path, 3)


def test_the_same_seed_gives_the_same_report_and_another_does_not(config: EvalConfig, tmp_path: Path) -> None:
    def responses(seed: int) -> list[str]:
        run = config.run.model_copy(update={"seed": seed})
        evaluate_checkpoint(config.model_copy(update={"run": run}))
        return [line["response"] for group in recorded(tmp_path / "run", "heldout") for line in group]

    first = responses(3)
    assert responses(3) == first
    assert responses(4) != first


def test_the_evaluation_of_a_training_recipe_keeps_to_a_folder_of_its_own(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    run = {**tiny_run["run"], "output_dir": tmp_path / "run"}
    online = OnlineConfig.model_validate({**tiny_run, "run": run})
    config = EvalConfig.of_training(online, "weights")
    assert config.model.path == "weights"
    assert config.run.output_dir == tmp_path / "run" / "eval"
    assert config.rollout.sampling == online.rollout.sampling
    empty = OnlineConfig.model_validate({**tiny_run, "run": run, "evaluation": {}})
    with pytest.raises(ConfigError, match=r"evaluation\.datasets is empty"):
        EvalConfig.of_training(empty, "weights")


def test_evaluation_in_training_has_its_own_sampling_and_length(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    """12 response tokens in training, punished from 8 on; 24 in evaluation, so punished from 20 on."""
    online = OnlineConfig.model_validate(
        {
            **tiny_run,
            "run": {**tiny_run["run"], "output_dir": tmp_path / "run"},
            "evaluation": {**tiny_run["evaluation"], "sampling": {"max_response_tokens": 24}},
        }
    )
    tokenizer = load_tokenizer(online.model)
    held_out = load_held_out(online.evaluation.datasets, online.data.prompts, tokenizer)
    with RewardRunner(online.reward, online.rollout.sampling.max_response_tokens) as rewards:
        evaluator = Evaluator(online, held_out, rewards, RolloutRecorder(tmp_path / "run", "all"))
        evaluator.evaluate(Repeater(20 * ("a",) + 2 * ("b",)), step=0)
    lines = (tmp_path / "run" / "evaluations" / "step_000000_heldout.jsonl").read_text().splitlines()
    assert {json.loads(line)["components"]["overlong"] for line in lines} == {-0.5}


class Repeater(Generator):
    """Gives the same response to every prompt."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._rollout = Rollout(tuple(map(ord, tokens)), (-1.0,) * len(tokens), "stop", 0, "".join(tokens))

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        assert sampling.max_response_tokens == 24
        self._finished = [(request.number, [self._rollout] * request.samples) for request in requests]

    def step(self) -> StepOutput:
        return StepOutput(self._finished)

    def cancel(self) -> None:
        pass
