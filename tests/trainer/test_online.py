"""Whole runs of a tiny model: what they leave behind, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner_rl.config.load import load_recipe
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.metrics import Metrics
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts
from reasoner_rl.sources.base import StepBatch
from reasoner_rl.sources.online import AHEAD, PUT_OFF, SURPLUS, OnlineSource
from reasoner_rl.trainer.folder import output_folder
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train

Recipe = Callable[..., Path]
MEASURED = ("time/", "speed/", "memory/")  # these differ from run to run
STEP_KEYS = {
    "step",
    *(f"groups/{name}" for name in ("generated", "kept", "dropped_right", "dropped_wrong", "surplus")),
    *(f"groups/{name}" for name in ("dropped_alike", "reused", "stale", "aborted", "skipped_steps")),
    *("groups/equal_share", "groups/reward_std", "reward/score_std"),
    *(f"response/{name}" for name in ("length_mean", "length_max", "truncated_share")),
    *(f"reward/{name}" for name in ("score", "accuracy", "vowel", "overlong", "overlong_share")),
    *(f"reward/{name}" for name in ("truncated", "timeouts", "crashes", "accuracy_unknown")),
    *(f"train/{name}" for name in ("grad_norm", "lr")),
    *(f"time/{name}" for name in ("step", "generate", "reward", "prepare", "update", "sync")),
    *(f"speed/{name}_tokens_per_second" for name in ("generate", "update")),
    "memory/host_gib",
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unmeasured(output: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock or the memory says."""
    return [
        {key: value for key, value in row.items() if not key.startswith(MEASURED)}
        for row in read_lines(output / "metrics.jsonl")
    ]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final" / "model.safetensors")


def assert_same_run(output: Path, reference: Path) -> None:
    """Weights, metrics, responses and evaluations are equal to the last bit."""
    ours, theirs = weights(output), weights(reference)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    assert unmeasured(output) == unmeasured(reference)
    for folder in ("rollouts", "evaluations"):
        files = sorted(path.name for path in (reference / folder).iterdir())
        assert sorted(path.name for path in (output / folder).iterdir()) == files
        for name in files:
            if name.endswith(".jsonl"):
                assert (output / folder / name).read_text() == (reference / folder / name).read_text(), name
            else:  # all but what a clock says
                tables = (read_rollouts(run / folder / name).drop(["seconds"]) for run in (output, reference))
                assert next(tables).equals(next(tables)), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """The output of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    recipe = output.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump({**tiny_run, "run": {**tiny_run["run"], "output_dir": str(output)}}))
    summary = train(load_recipe(recipe))  # type: ignore[arg-type]
    assert summary is not None
    return output


def test_metrics_of_every_step(uninterrupted: Path) -> None:
    rows = read_lines(uninterrupted / "metrics.jsonl")
    steps = [row for row in rows if "train/lr" in row]
    evaluations = [row for row in rows if "eval/heldout/accuracy" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["step"] for row in evaluations] == [0, 2, 4]
    assert all(row["time/evaluate"] > 0 for row in evaluations)
    for row in steps:
        assert row.keys() >= STEP_KEYS, STEP_KEYS - row.keys()
        assert row["groups/kept"] == 4
        assert row["response/length_max"] <= 12
    # 8 updates, 2 of them warm-up; a step's value is the mean of its 2 updates' rates: 1/3 and 2/3, then falling.
    expected = [0.5, (1 + 5 / 6) / 2, (4 / 6 + 3 / 6) / 2, (2 / 6 + 1 / 6) / 2]
    assert [row["train/lr"] for row in steps] == pytest.approx([0.001 * factor for factor in expected])


def _groups_of_four(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [lines[start : start + 4] for start in range(0, len(lines), 4)]


def test_every_response_is_recorded_with_its_advantage(uninterrupted: Path) -> None:
    for step in (1, 2, 3, 4):
        lines = read_lines(uninterrupted / "rollouts" / f"step_{step:06d}.jsonl")
        assert len(lines) == 16
        for group in _groups_of_four(lines):
            assert len({line["uid"] for line in group}) == 1
            assert 0 < sum(line["accuracy"] for line in group) < 4, "the filter kept what teaches nothing"
            assert sum(line["advantage"] for line in group) == pytest.approx(0, abs=1e-5)
            assert len({line["response"] for line in group}) > 1
        dropped = uninterrupted / "rollouts" / f"step_{step:06d}_dropped.jsonl"
        for group in _groups_of_four(read_lines(dropped) if dropped.exists() else []):
            assert sum(line["accuracy"] for line in group) in (0, 4)
        for line in lines:
            overlong = max(-1.0, min(0.0, -(line["tokens"] - 8) / 4))
            vowel = 1.0 if any(letter in "aeiou" for letter in line["response"]) else -1.0
            assert line["score"] == pytest.approx(vowel + overlong)
            assert step - 2 <= line["policy_version"] < step


def test_the_rest_of_what_a_run_leaves_behind(uninterrupted: Path) -> None:
    assert list((uninterrupted / "rollouts").glob("step_*_dropped.jsonl"))
    summary = json.loads((uninterrupted / "summary.json").read_text())
    evaluated = read_lines(uninterrupted / "evaluations" / "step_000004_heldout.jsonl")
    assert len(evaluated) == 5
    assert summary["steps"] == 4
    assert summary["accuracy_after"] == pytest.approx(sum(line["accuracy"] for line in evaluated) / 5)
    assert list(summary["evaluations"]) == ["0", "2", "4"]
    assert (uninterrupted / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == [
        "latest",
        "step_000003",
        "step_000004",
    ]
    resolved = load_recipe(uninterrupted / "recipe.yaml")
    assert resolved.run.output_dir == uninterrupted
    assert "torch" in json.loads((uninterrupted / "run.json").read_text())


def test_the_final_weights_load_with_transformers_and_were_trained(
    uninterrupted: Path, tiny_run: dict[str, Any]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(uninterrupted / "final")
    start = dict(AutoModelForCausalLM.from_pretrained(tiny_run["model"]["path"]).named_parameters())
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, start[name]), name
    ids = AutoTokenizer.from_pretrained(uninterrupted / "final")("train 1", return_tensors="pt")
    assert torch.isfinite(model(**ids).logits).all()


def test_a_run_that_was_stopped_resumes_as_if_nothing_had_happened(
    uninterrupted: Path, write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(checkpoint={"every_steps": None})  # so that stopping itself must save
    step = Trainer.step

    def step_with_ctrl_c(run: Trainer) -> None:
        if run.state.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        step(run)

    monkeypatch.setattr(Trainer, "step", step_with_ctrl_c)
    assert train(load_recipe(recipe)) is None  # type: ignore[arg-type]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step_000002\n"
    assert not (tmp_path / "run" / "final").exists()
    monkeypatch.undo()
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.fixture
def fail_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run's third step raises an error of the user's while its batch is made."""
    make = OnlineSource.next

    def make_until_then(source: OnlineSource, step: int, version: int) -> StepBatch:
        if step == 3:
            raise UserError("all wrong")
        return make(source, step, version)

    monkeypatch.setattr(OnlineSource, "next", make_until_then)


@pytest.mark.usefixtures("fail_after_two_steps")
def test_a_run_that_cannot_continue_keeps_what_it_has_learnt(write_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all wrong"):
        train(load_recipe(write_recipe(checkpoint={"every_steps": None}, evaluation={})))  # type: ignore[arg-type]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step_000002\n"


def test_nothing_is_saved_when_a_step_fails_after_its_update(
    write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of step 3 then, and would be updated by it once more after a resumption from step 2."""
    publish = Workers.publish

    def publish_until_then(workers: Workers, version: int, *before: Callable[[], object]) -> Metrics:
        if version == 3:
            raise UserError("does not work")
        return publish(workers, version, *before)

    monkeypatch.setattr(Workers, "publish", publish_until_then)
    with pytest.raises(UserError, match="does not work"):
        train(load_recipe(write_recipe(checkpoint={"every_steps": None}, evaluation={})))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "checkpoints").exists()


# All right, all wrong or mixed, as the file beside it says.
BY_FATE = """
import pathlib
FATE = pathlib.Path(__file__).with_name("fate")
def judge(data_source, solution_str, ground_truth, extra_info):
    fate = FATE.read_text()
    accuracy = {"right": True, "wrong": False}.get(fate, len(set(solution_str)) % 2 == 1)
    return {"score": 1.0 if accuracy else -1.0, "acc": accuracy}
def partial(data_source, solution_str, ground_truth, extra_info):
    return 0.1 + 0.01 * len(set(solution_str))
"""


@pytest.fixture
def run_of_fates(
    write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: dict[str, Any]
) -> Callable[..., dict[str, Any] | None]:
    """Make a run whose step n finds all responses as the n-th fate says: 4 prompts of 12 a step."""
    (tmp_path / "verifier.py").write_text(BY_FATE)
    step = Trainer.step

    def run(*fates: str, **sections: Any) -> dict[str, Any] | None:
        def step_of_fate(run: Trainer) -> None:
            (tmp_path / "fate").write_text(fates[run.state.step])
            step(run)

        (tmp_path / "fate").write_text("mixed")
        monkeypatch.setattr(Trainer, "step", step_of_fate)
        recipe = write_recipe(
            reward={"functions": [{"fn": f"{tmp_path}/verifier.py:judge"}], "workers": 1},
            algorithm={"kind": "dapo", "dynamic_sampling": {"max_generation_batches": 1, "max_staleness": 0}},
            batch={"prompts_per_step": 4, "prompts_per_update": 4, "micro_batch_tokens": 200},
            data={**tiny_run["data"], "shuffle": False},
            **{"evaluation": {}, **sections},
        )
        return train(load_recipe(recipe, [f"run.steps={len(fates)}"]))  # type: ignore[arg-type]

    return run


def test_steps_without_a_usable_group_are_skipped_said_and_counted(
    run_of_fates: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_of_fates("right", "right", "mixed", "wrong", "right")
    assert summary["steps"] == 5
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["groups/skipped_steps"] for row in rows] == [1, 1, 0, 1, 1]
    assert ["train/lr" in row for row in rows] == [False, False, True, False, False]
    assert [row["groups/dropped_right"] for row in rows][:2] == [4, 4]
    said = capsys.readouterr().out
    assert (
        "step 1 is skipped, without an update: none of the 4 groups generated can be trained on; 4 were all right and "
        "0 all wrong\n"
    ) in said
    assert (
        "step 4 is skipped, without an update: none of the 4 groups generated can be trained on; 0 were"
        in said
    )
    assert "nothing is left to learn" not in said
    assert said.count(":judge, which decides by itself what counts\n") == 1
    state = json.loads((tmp_path / "run" / "checkpoints" / "step_000005" / "driver.json").read_text())
    assert (state["step"], state["version"], len(state["source"]["all_right"])) == (5, 1, 4)


def test_a_run_ends_as_learnt_after_a_whole_pass_that_was_all_right_also_across_a_stop(
    run_of_fates: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = {"datasets": [{"path": str(tmp_path / "heldout.jsonl")}], "at_start": False}
    (tmp_path / "heldout.jsonl").write_text('{"problem": "1 plus 1?", "answer": "2"}\n')
    assert run_of_fates("mixed", "right", evaluation=evaluation) is not None
    summary = run_of_fates("mixed", "right", "right", "right", "mixed", "mixed", evaluation=evaluation)
    assert summary["steps"] == 4
    assert list(summary["evaluations"]) == ["2", "4"]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step_000004\n"
    said = capsys.readouterr().out
    told = (
        "all responses to all 12 prompts of train were right in a whole pass over the data, and nothing is left to "
        "learn; the run ends after step 4"
    )
    assert said.count(told) == 1
    assert run_of_fates("", "", "", "", "mixed", evaluation=evaluation) is not None
    assert capsys.readouterr().out.count(told) == 1, "nothing is generated again to find that out"
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 2, 3, 4, 4]


def test_a_run_that_never_found_a_usable_group_is_an_error(
    run_of_fates: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"none of the 2 steps found a group to train on: nothing was trained"
    ):
        run_of_fates("wrong", "wrong")
    assert not (tmp_path / "run" / "final").exists()


def test_partial_credit_without_accuracy_is_trained_on(
    run_of_fates: Callable[..., Any], tmp_path: Path, write_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of 0.1 and more are no reason to take all responses for right."""
    (tmp_path / "verifier.py").write_text(BY_FATE)
    recipe = write_recipe(reward={"functions": [{"fn": f"{tmp_path}/verifier.py:partial"}], "workers": 1})
    summary = train(load_recipe(recipe, ["run.steps=2"]))  # type: ignore[arg-type]
    assert summary is not None
    assert (summary["steps"], summary["accuracy_after"]) == (2, None)
    said = capsys.readouterr().out
    assert "reward function 'partial' returns a score without 'acc': accuracy is not known" in said
    steps = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "train/lr" in row]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert (row["groups/dropped_right"], row["groups/dropped_wrong"]) == (0, 0)
        assert row["reward/accuracy_unknown"] == 4 * row["groups/generated"] > 0
        assert "reward/accuracy" not in row
    assert any("eval/heldout/score" in row for row in read_lines(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.usefixtures("vllm_on_cpu")
def test_a_run_that_generates_with_vllm(
    write_recipe: Recipe, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    recipe = write_recipe(
        model={"path": str(tiny_checkpoint("qwen2-wide-tied"))},
        rollout={
            "engine": {"kind": "vllm", "max_batch_sequences": 16},
            "responses_per_prompt": 4,
            "sampling": {"max_response_tokens": 12},
        },
    )
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    steps = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "train/lr" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row["policy/rollout_gap_max"] < 1e-4
        assert row["sync/check_gap"] < 1e-4
        assert row["sync/gib"] > 0
    start = load_file(tiny_checkpoint("qwen2-wide-tied") / "model.safetensors")
    assert any(not torch.equal(tensor, start[name]) for name, tensor in weights(tmp_path / "run").items())


def test_what_does_not_fit_into_the_models_context_is_told_before_training(write_recipe: Recipe) -> None:
    recipe = write_recipe(evaluation={}, rollout={"sampling": {"max_response_tokens": 245}})
    with pytest.raises(
        ConfigError, match=r"a prompt of 1\d tokens and a response of up to 245 do not fit into the 256"
    ):
        train(load_recipe(recipe))  # type: ignore[arg-type]


def test_every_term_of_the_loss_at_another_temperature(write_recipe: Recipe, tmp_path: Path) -> None:
    """Wiring: temperature, reference, entropy gradient and importance weights reach the loss; epochs repeat."""
    runs = {}
    for entropy in (0.0, 0.5):
        loss = {
            "kl": {"coefficient": 0.1},
            "entropy_coefficient": entropy,
            "importance_sampling": {"kind": "truncated"},
        }
        recipe = write_recipe(
            rollout={"responses_per_prompt": 4, "sampling": {"max_response_tokens": 12, "temperature": 0.7}},
            algorithm={"kind": "dapo", "loss": loss},
            batch={"prompts_per_step": 4, "prompts_per_update": 4, "epochs": 2},
            evaluation={},
        )
        output = tmp_path / f"entropy_{entropy}"
        train(load_recipe(recipe, [f"run.output_dir={output}", "run.steps=2"]))  # type: ignore[arg-type]
        runs[entropy] = read_lines(output / "metrics.jsonl"), weights(output)
    for rows, _ in runs.values():
        for row in rows:
            assert 0 < row["policy/rollout_gap_max"] < 1e-4, "generation and trainer at the same temperature"
            assert row["policy/importance_weight_mean"] == pytest.approx(1.0, abs=1e-4)
            assert row["policy/ratio_max"] > 1.001, "the second pass over the batch has a policy that moved"
        assert rows[1]["policy/kl"] > 0
    assert any(not torch.equal(t, runs[0.5][1][name]) for name, t in runs[0.0][1].items()), (
        "entropy's gradient"
    )


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_as_if_nothing_had_happened(
    uninterrupted: Path, write_recipe: Recipe, tmp_path: Path, tiny_run: dict[str, Any], repository: Path
) -> None:
    recipe = write_recipe(checkpoint={"every_steps": 2}, reward=slow_reward(tiny_run, tmp_path))
    kill_in_step_four_and_resume(recipe, tmp_path, repository)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "counted", "file"),
    [
        ({"put_off": {"budget_tokens": 5, "until": "next_step"}}, "groups/put_off", PUT_OFF),
        ({"ahead": {"steps": 2}, "prompts_per_generation": 9}, "groups/ahead", AHEAD),
    ],
)
def test_nothing_is_lost_or_trained_twice_where_prompts_are_selected_and_responses_not_finished(
    rule: dict[str, Any],
    counted: str,
    file: str,
    write_recipe: Recipe,
    tmp_path: Path,
    tiny_run: dict[str, Any],
    repository: Path,
) -> None:
    """Killed with pass rates, surplus groups and responses that are not finished."""
    sections = {
        "data": {**tiny_run["data"], "selection": {"half_life_steps": 2, "importance_weights": True}},
        "batch": {**tiny_run["batch"], **rule},
        "checkpoint": {"every_steps": 2},
        # Fewer rows than responses, so that some are begun when others end.
        "rollout": {**tiny_run["rollout"], "engine": {"kind": "hf", "max_batch_sequences": 9}},
    }
    whole = write_recipe(**sections)
    resume(whole, f"run.output_dir={tmp_path / 'whole'}")
    rows = [row for row in read_lines(tmp_path / "whole" / "metrics.jsonl") if "train/lr" in row]
    assert sum(row[counted] for row in rows) > 4
    recipe = write_recipe(**sections, reward=slow_reward(tiny_run, tmp_path))
    kill_in_step_four_and_resume(recipe, tmp_path, repository)
    assert (tmp_path / "run" / "checkpoints" / "step_000002" / file).exists()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    tables = [
        read_rollouts(tmp_path / "run" / "rollouts" / f"step_{step:06d}.parquet") for step in (1, 2, 3, 4)
    ]
    switches = [found for table in tables for found in table["policy_switches"].to_pylist()]
    assert any(switches), "responses of several policies were trained on"
    responses = Counter(
        (uid, tuple(ids), tuple(logprobs))
        for table in tables
        for uid, ids, logprobs in zip(
            *(table[n].to_pylist() for n in ("uid", "token_ids", "logprobs")), strict=True
        )
    )
    assert set(responses.values()) == {1}
    assert all(abs(row["policy/importance_weight_mean"] - 1) < 0.1 for row in rows)


def slow_reward(tiny_run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The reward section with a verifier that leaves time to kill the run."""
    verifier = Path(tiny_run["reward"]["functions"][0]["fn"].partition(":")[0]).read_text()
    slowly = "\n    __import__('time').sleep(0.02)\n    return"
    (folder / "slow.py").write_text(verifier.replace("\n    return", slowly))
    return {**tiny_run["reward"], "functions": [{"fn": f"{folder}/slow.py:compute_score", "name": "vowel"}]}


def kill_in_step_four_and_resume(recipe: Path, folder: Path, repository: Path) -> None:
    """Run a recipe whose output is folder/run, with a checkpoint every two steps."""
    command = [sys.executable, "-m", "reasoner_rl.cli", "train", str(recipe)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    metrics, output = folder / "run" / "metrics.jsonl", folder / "run"
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log) as run:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
            assert run.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.kill()
    assert (output / "checkpoints" / "latest").read_text() == "step_000002\n"
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "resuming after step 2" in finished.stdout


def test_entropies_are_recorded_on_request(write_recipe: Recipe, tmp_path: Path) -> None:
    """They are those of the update, whose metric is their mean over tokens; with one update, before it."""
    batch = {"prompts_per_step": 4, "prompts_per_update": 4}
    recipe = write_recipe(evaluation={}, batch=batch, logging={"entropies": True})
    output = tmp_path / "run"
    resume(recipe, f"run.output_dir={output}", "run.steps=1")
    [step] = [row for row in read_lines(output / "metrics.jsonl") if "train/lr" in row]
    table = read_rollouts(output / "rollouts" / "step_000001.parquet")
    entropies = [value for row in table["entropies"].to_pylist() for value in row]
    assert [len(row) for row in table["entropies"].to_pylist()] == table["tokens"].to_pylist()
    assert len(set(entropies)) > 10
    assert sum(entropies) / len(entropies) == pytest.approx(step["policy/entropy"], rel=1e-5)
    assert (output / "rollouts" / "step_000001.jsonl").exists()


def resume(recipe: Path, *overrides: str) -> None:
    train(load_recipe(recipe, overrides))  # type: ignore[arg-type]


@pytest.fixture
def one_step(write_recipe: Recipe) -> Path:
    """The recipe of a run of one step, which has been made."""
    recipe = write_recipe(evaluation={}, training={"optimizer": {"lr": 1.0e-2}})
    resume(recipe, "run.steps=1")
    return recipe


def test_resuming_with_other_settings(
    one_step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"run\.resume is 'never', but .*step_000001 is a checkpoint"):
        resume(one_step, "run.resume=never")
    with pytest.raises(ConfigError, match=r"run\.steps=0, but .*step_000001 is of step 1"):
        resume(one_step, "run.steps=0")
    with pytest.raises(ConfigError, match=r"training\.optimizer\.lr is 0\.5, but .* was made with 0\.01"):
        resume(one_step, "training.optimizer.lr=0.5")
    with pytest.raises(ConfigError, match=r"run\.seed is 4, but .* was made with 3"):
        resume(one_step, "run.seed=4", "run.steps=2")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").run.seed == 3, "a refused run changed the record"
    (tmp_path / "run" / "metrics.jsonl").unlink()
    resume(one_step, "run.steps=1")
    assert "all 1 steps were made before: nothing is left to train" in capsys.readouterr().out
    resume(one_step, "batch.prompts_per_step=2", "run.steps=2")
    assert "changed since: batch.prompts_per_step: 4 -> 2" in capsys.readouterr().out
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")] == [2]


@pytest.mark.parametrize("text", ["", "- a list", "\0: ["])
def test_a_garbled_recipe_in_a_checkpoint_is_named(one_step: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "run" / "checkpoints" / "step_000001"
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=r"step_000001 is damaged: recipe.yaml has "):
        resume(one_step, "run.steps=2")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"step_000001 is damaged, or of another model: "):
        resume(one_step, "run.steps=2")


def test_a_flipped_bit_in_the_weights_is_named(one_step: Path, tmp_path: Path) -> None:
    weights = next((tmp_path / "run" / "checkpoints" / "step_000001" / "policy" / "weights").glob("*.distcp"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 3] ^= 64
    weights.write_bytes(data)
    with pytest.raises(UserError, match=rf"policy/weights/{weights.name} has other contents than were saved"):
        resume(one_step, "run.steps=2")


def test_changed_data_are_refused_on_resume(
    one_step: Path, tmp_path: Path, tiny_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path(tiny_run["data"]["train"]["path"]).read_text().splitlines()
    changed = [*rows[:5], rows[5].replace('"answer": "10"', '"answer": "11"'), *rows[6:]]
    assert changed != rows
    recorded = (tmp_path / "run" / "recipe.yaml").read_text()
    for lines, said in (
        (changed, "other rows"),
        (rows[::-1], "the same rows in another order"),
        (rows[:-1], "11 rows instead of 12"),
    ):
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        with pytest.raises(
            ConfigError, match=rf"data\.train: {said}, compared with what .*step_000001 was made"
        ):
            resume(one_step, "run.steps=2", f"data.train.path={tmp_path / 'train.jsonl'}")
        assert (tmp_path / "run" / "recipe.yaml").read_text() == recorded, "a refused run changed the record"
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    resume(one_step, f"data.train.path={tmp_path / 'train.jsonl'}", "run.steps=1")
    assert "changed since: data.train.path" in capsys.readouterr().out, "data may move"


def test_surplus_groups_of_another_size_are_trained_on_and_recorded(
    write_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = write_recipe(evaluation={})
    resume(recipe, "run.steps=1")
    saved = read_rollouts(tmp_path / "run" / "checkpoints" / "step_000001" / SURPLUS)
    surplus = len(groups_of(saved))
    assert 0 < surplus < 4
    resume(recipe, "run.steps=2", "rollout.responses_per_prompt=6")
    lines = read_lines(tmp_path / "run" / "rollouts" / "step_000002.jsonl")
    uids = [line["uid"] for line in lines]
    assert [uids.count(uid) for uid in dict.fromkeys(uids)] == [4] * surplus + [6] * (4 - surplus)
    for uid in set(uids):
        assert sum(line["advantage"] for line in lines if line["uid"] == uid) == pytest.approx(0, abs=1e-5)


def test_records_that_are_missing_on_resume_are_told(
    one_step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    (output / "metrics.jsonl").write_text("")
    shutil.rmtree(output / "rollouts")
    resume(one_step, "run.steps=1")
    said = capsys.readouterr().out
    assert f"{output}/metrics.jsonl has no row of step 1; no row before it" in said
    assert f"{output}/rollouts/step_000001.jsonl is missing" in said


def test_a_finished_run_without_checkpoints_is_not_replaced(
    one_step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.rmtree(output / "checkpoints")
    before = (output / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"summary\.json is of a run that finished after 1 steps"):
        resume(one_step, "run.steps=1")
    assert (output / "metrics.jsonl").read_text() == before
    (output / "summary.json").unlink()
    resume(one_step, "run.steps=1")
    assert f"{output} has no checkpoint: a new run begins, and replaces the records of 1 steps" in (
        capsys.readouterr().out
    )


@pytest.mark.usefixtures("fail_after_two_steps")
def test_run_steps_lowered_to_the_checkpoint_evaluates_its_weights_once(
    write_recipe: Recipe, tmp_path: Path
) -> None:
    held_out = {"datasets": yaml.safe_load(write_recipe().read_text())["evaluation"]["datasets"]}
    recipe = write_recipe(evaluation=held_out)
    with pytest.raises(UserError, match="all wrong"):
        resume(recipe)
    for _ in range(2):
        resume(recipe, "run.steps=2")
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert list(summary["evaluations"]) == ["0", "2"]
        evaluated = read_lines(tmp_path / "run" / "evaluations" / "step_000002_heldout.jsonl")
        assert summary["accuracy_after"] == pytest.approx(sum(line["accuracy"] for line in evaluated) / 5)
        rows = read_lines(tmp_path / "run" / "metrics.jsonl")
        assert [row["step"] for row in rows if "eval/heldout/accuracy" in row] == [0, 2]


@pytest.mark.parametrize(
    "missing",
    ["driver.json", "surplus.parquet", "recipe.yaml", "policy/rank_0.pt", "policy/weights/.metadata"],
)
def test_a_damaged_checkpoint_is_named(one_step: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "run" / "checkpoints" / "step_000001"
    (folder / missing).unlink()
    with pytest.raises(UserError, match=rf"checkpoint .*step_000001 is damaged: {missing} is missing"):
        resume(one_step, "run.steps=2")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint .*step_000001 is damaged, or of another model: "):
        resume(one_step, "run.steps=2")


def test_a_checkpoint_of_another_model_is_named(
    one_step: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=r"step_000001 is damaged, or of another model"):
        resume(one_step, "run.steps=2", f"model.path={tiny_checkpoint('llama-untied')}")


def test_a_folder_that_another_run_writes_to_is_refused(write_recipe: Recipe, tmp_path: Path) -> None:
    recipe = write_recipe()
    with (
        output_folder(load_recipe(recipe).run),
        pytest.raises(ConfigError, match="another run is writing there"),
    ):
        train(load_recipe(recipe))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("def score(answer, truth): return 1.0", "cannot be called as fn"),
        ("def score(**arguments): return 'good'", "must return a number, or a dict"),
        (
            "def score(**arguments): return arguments['extra_info']['level']",
            "raised on a test call: KeyError",
        ),
    ],
)
def test_a_reward_function_that_does_not_fit_is_told_before_the_model_is_loaded(
    plugin: str, message: str, write_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*arguments: Any) -> None:
        raise AssertionError("the model is being loaded")

    monkeypatch.setattr("reasoner_rl.trainer.train.launch_workers", too_late)
    (tmp_path / "mine.py").write_text(plugin)
    recipe = write_recipe(reward={"functions": [{"fn": f"{tmp_path}/mine.py:score"}]})
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe))  # type: ignore[arg-type]
