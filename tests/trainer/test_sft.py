"""Supervised runs: the loss falls, an interruption changes nothing, and neither do ranks; held-out problems."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.config.recipes import EvalConfig, SftConfig
from reasoner_rl.config.rollout import RolloutConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.trainer.loading import tell_unused_sections
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., SftConfig]:
    """A function of the folder's name that makes the recipe of 12 steps on 10 worked examples."""
    rows = [{"q": f"{n} plus 1?", "a": n + 1, "work": f"{n}+1={n + 1}"} for n in range(9)]
    rows.append({"q": "too long", "a": 0, "work": "x" * 100})
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(name: str, **run: Any) -> SftConfig:
        return SftConfig.model_validate(
            {
                "run": {"output_dir": tmp_path / name, "steps": 12, "threads": 1, "seed": 1, **run},
                "model": {"path": str(tiny_checkpoint("llama-untied"))},
                "data": {
                    "train": {
                        "path": data,
                        "columns": {"problem": "q", "answer": "a", "solution": "work"},
                    },
                    "response_template": "{solution}\nAnswer: {answer}",
                    "max_response_tokens": 40,
                },
                "batch": {"examples_per_step": 4, "micro_batch_tokens": 100},
                "training": {"optimizer": {"lr": 0.01}, "schedule": {"kind": "cosine", "warmup_steps": 2}},
                "checkpoint": {"every_steps": 5},
                "logging": {"tensorboard": False},
            }
        )

    return make


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "speed/", "memory/"))} for row in rows
    ]


def test_the_loss_falls_and_a_stopped_run_resumes_exactly(
    recipe: Callable[..., SftConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = train(recipe("straight"))
    assert summary is not None
    assert (summary["steps"], summary["algorithm"], summary["evaluations"]) == (12, "sft", {})
    assert "12 steps of 4 examples: 5.33 passes over 9\n" in capsys.readouterr().out, (
        "the long one is dropped"
    )
    straight = rows_of(tmp_path / "straight")
    assert [row["step"] for row in straight] == list(range(1, 13))
    losses = [row["sft/loss"] for row in straight]
    assert losses[0] > 3, "a random model"
    assert losses[-1] < 0.6 * losses[0]
    step = Trainer.step

    def step_with_ctrl_c(run: Trainer) -> None:
        if run.state.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    monkeypatch.setattr(Trainer, "step", step_with_ctrl_c)
    assert train(recipe("stopped")) is None
    checkpoints = tmp_path / "stopped" / "checkpoints"
    assert (checkpoints / "latest").read_text() == "step_000007\n"
    assert not (tmp_path / "stopped" / "final").exists()
    assert (tmp_path / "stopped" / "curves.png").is_file()
    assert capsys.readouterr().out.endswith(
        "stopped after step 7; the same command resumes from there\n"
        "to have the weights of step 7 as a Hugging Face checkpoint: reasoner-rl export "
        f"{tmp_path / 'stopped'}\n"
    )
    monkeypatch.undo()
    assert train(recipe("stopped")) is not None
    assert rows_of(tmp_path / "stopped") == straight
    ours = load_file(tmp_path / "stopped" / "final" / "model.safetensors")
    theirs = load_file(tmp_path / "straight" / "final" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def evaluated(recipe: Callable[..., SftConfig], tiny_run: dict[str, Any]) -> Callable[..., SftConfig]:
    """The recipe of a run that answers 5 held-out problems before, during and after it, with no end to its schedule."""

    def make(name: str, *, cluster: dict[str, Any] | None = None, **run: Any) -> SftConfig:
        tree = recipe(name, **run).model_dump(mode="json") | {
            "training": {"optimizer": {"lr": 0.01}, "schedule": {"kind": "constant"}},
            "rollout": {"sampling": {"max_response_tokens": 12}},
            "reward": tiny_run["reward"],
            "evaluation": {**tiny_run["evaluation"], "samples_per_prompt": 2},
            "cluster": cluster or {"kind": "local"},
            "checkpoint": {"every_steps": 2},
            "logging": {"tensorboard": False, "progress": False},
        }
        return SftConfig.model_validate(tree)

    return make


def responses(output: Path, step: int) -> list[str]:
    """To the held-out problems, after this step; 0 in the folder of an evaluation by itself."""
    path = output / "evaluations" / f"step_{step:06d}_heldout.jsonl"
    return [json.loads(line)["response"] for line in path.read_text().splitlines()]


def test_held_out_problems_are_answered_before_during_and_after(
    evaluated: Callable[..., SftConfig], tmp_path: Path
) -> None:
    config = evaluated("run", steps=4)
    left = tmp_path / "run" / "evaluations" / "step_000006_heldout.jsonl"  # by a run that was interrupted
    left.parent.mkdir(parents=True)
    left.touch()
    summary = train(config)
    assert not left.exists()
    assert summary is not None
    rows = rows_of(tmp_path / "run")
    assert [(row["step"], "sft/loss" in row) for row in rows] == [
        (0, False),
        (1, True),
        (2, True),
        (2, False),
        (3, True),
        (4, True),
        (4, False),
    ]
    accuracies = {row["step"]: row["eval/heldout/accuracy"] for row in rows if "sft/loss" not in row}
    assert summary["evaluations"].keys() == {"0", "2", "4"}
    for step, accuracy in accuracies.items():
        right = [any(letter in "aeiou" for letter in text) for text in responses(tmp_path / "run", step)]
        assert len(right) == 10
        assert accuracy == summary["evaluations"][str(step)]["heldout"]["accuracy"] == sum(right) / 10
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (accuracies[0], accuracies[4])
    # Each was of the weights of its time: those of the start and of the end answer alike in an evaluation by itself.
    for step, weights in ((0, config.model.path), (4, str(tmp_path / "run" / "final"))):
        evaluate_checkpoint(EvalConfig.of_training(config, weights))
        assert responses(tmp_path / "run" / "eval", 0) == responses(tmp_path / "run", step)
        shutil.rmtree(tmp_path / "run" / "eval")  # which takes no other evaluation
    assert len({tuple(responses(tmp_path / "run", step)) for step in (0, 2, 4)}) == 3


def test_two_ranks_resume_from_one_process_and_one_process_from_two_ranks(
    evaluated: Callable[..., SftConfig], tmp_path: Path
) -> None:
    """Steps 3 and 4 are made by two ranks; losses and weights differ from those of one process by rounding only."""
    pytest.importorskip("ray")
    pytest.importorskip("verl")
    assert train(evaluated("alone", steps=5)) is not None
    two_ranks = {"kind": "ray", "workers_per_node": 2, "device": "cpu"}
    for steps, cluster in ((2, None), (4, two_ranks), (5, None)):
        assert train(evaluated("together", steps=steps, cluster=cluster)) is not None
        saved = tmp_path / "together" / "checkpoints" / f"step_{steps:06d}" / "policy"
        assert len(list(saved.glob("rank_*.pt"))) == (2 if cluster else 1)
    alone, together = rows_of(tmp_path / "alone"), rows_of(tmp_path / "together")
    assert [row["step"] for row in together] == [0, 1, 2, 2, 3, 4, 4, 5, 5]
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), (one["step"], key)
    assert responses(tmp_path / "together", 4) == responses(tmp_path / "alone", 4)
    trained = load_file(tmp_path / "alone" / "final" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "together" / "final" / "model.safetensors").items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_second_start_of_a_finished_run_changes_nothing(
    recipe: Callable[..., SftConfig], tmp_path: Path
) -> None:
    first = train(recipe("run", steps=3))
    weights = (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    assert train(recipe("run", steps=3)) == first
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == weights


def test_what_cannot_be_gone_on_from(recipe: Callable[..., SftConfig], tmp_path: Path) -> None:
    train(recipe("run", steps=2))
    with pytest.raises(ConfigError, match=r"run\.resume is 'never'"):
        train(recipe("run", resume="never"))
    with pytest.raises(ConfigError, match=r"run\.seed is 2, but .* was made with 1"):
        train(recipe("run", seed=2))
    driver = tmp_path / "run" / "checkpoints" / "step_000002" / "driver.json"
    (driver.parent / "manifest.json").unlink()
    older = {name: value for name, value in json.loads(driver.read_text()).items() if name != "format"}
    driver.write_text(json.dumps(older))
    with pytest.raises(
        UserError, match=r"step_000002/driver\.json has format 1, and this version of reasoner_rl resum"
    ):
        train(recipe("run"))
    driver.unlink()
    with pytest.raises(UserError, match=r"step_000002 is damaged"):
        train(recipe("run"))


def test_an_example_beyond_the_models_context_is_refused_at_start(
    recipe: Callable[..., SftConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner_rl.trainer.loading.context_length", lambda model: 5)
    with pytest.raises(ConfigError, match=r"an example of \d+ tokens does not fit into the 5 tokens that"):
        train(recipe("short"))


def test_sections_without_an_effect_are_told(
    recipe: Callable[..., SftConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe("short")
    tell_unused_sections(config)
    assert capsys.readouterr().out == ""
    changed = config.model_copy(update={"rollout": RolloutConfig(sync_check="none")})
    tell_unused_sections(changed)
    assert capsys.readouterr().out == (
        "evaluation.datasets is empty, so nothing is generated and rollout has no effect\n"
    )
