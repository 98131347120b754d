"""Real workers in real Ray actors: the same results as one process, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file

from reasoner_rl.commands.replay import replay_step
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.distributed.launch import launch_pool
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.rollout.engine import GenerationRequest
from reasoner_rl.trainer.train import train

pytest.importorskip("ray")
pytest.importorskip("verl")

Recipe = Callable[..., Path]
TWO_WORKERS = {"kind": "ray", "workers_per_node": 2, "device": "cpu"}
DEADLINE = 60  # seconds, for a run to report a dead worker; it takes about three


def command(recipe: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "reasoner_rl.cli", "train", str(recipe), *overrides]


def run(recipe: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(recipe, *overrides), capture_output=True, text=True, timeout=900)


def rows(output: Path) -> list[dict[str, Any]]:
    file = output / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_two_ranks_learn_what_one_process_learns(write_recipe: Recipe, tmp_path: Path) -> None:
    """The same seed gives the same responses, and losses and weights that differ by rounding only."""
    recipe = load_recipe(write_recipe(), [f"run.output_dir={tmp_path / 'one'}"])
    assert recipe.cluster.kind == "local"
    assert train(recipe) is not None  # type: ignore[arg-type]
    finished = run(write_recipe(cluster=TWO_WORKERS), f"run.output_dir={tmp_path / 'two'}")
    assert finished.returncode == 0, finished.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [0, 1, 2, 2, 3, 4, 4]
    for alone, together in zip(one, two, strict=True):
        for key in alone:
            if key.startswith(
                ("policy/loss", "policy/entropy", "train/", "reward/", "eval/", "groups/", "response/")
            ):
                assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), (alone["step"], key)
    trained = load_file(tmp_path / "one" / "final" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "two" / "final" / "model.safetensors").items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-4, rtol=1e-4, msg=name)
    responses = [
        [json.loads(line)["response"] for line in (tmp_path / name / "rollouts" / "step_000001.jsonl").open()]
        for name in ("one", "two")
    ]
    assert responses[0] == responses[1]
    replayed = replay_step(tmp_path / "two", 4)
    assert replayed.differ == [], "one process makes again what two ranks did, within 1e-6"


APART = {"kind": "ray", "device": "cpu", "generation": {}}


def test_workers_of_their_own_generate(
    write_recipe: Recipe, tmp_path: Path, tiny_run: dict[str, Any]
) -> None:
    """Without steps ahead, what is learnt is what one process learns, to the bit; with some, nothing is too old."""
    assert train(load_recipe(write_recipe(), [f"run.output_dir={tmp_path / 'one'}"])) is not None  # type: ignore[arg-type]
    finished = run(write_recipe(cluster=APART), f"run.output_dir={tmp_path / 'apart'}")
    assert finished.returncode == 0, finished.stderr
    one, apart = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "apart"))
    assert all(torch.equal(tensor, one[name]) for name, tensor in apart.items())
    measured = ("time/", "speed/", "memory/", "sync/", "reward/seconds")
    for ours, theirs in zip(rows(tmp_path / "apart"), rows(tmp_path / "one"), strict=True):
        assert {key: ours[key] for key in theirs if not key.startswith(measured)} == {
            key: value for key, value in theirs.items() if not key.startswith(measured)
        }
    batch = {**tiny_run["batch"], "prompts_per_generation": 12}
    for in_flight in ("continue", "finish"):
        recipe = write_recipe(
            cluster=APART,
            batch={**batch, "ahead": {"steps": 2, "in_flight": in_flight}},
            rollout={**tiny_run["rollout"], "sync_check": "tensors" if in_flight == "finish" else "logprobs"},
        )
        finished = run(recipe, f"run.output_dir={tmp_path / in_flight}")
        assert finished.returncode == 0, finished.stderr
        steps = [row for row in rows(tmp_path / in_flight) if "policy/staleness_max" in row]
        assert [row["step"] for row in steps] == [1, 2, 3, 4]
        assert 1 <= max(row["policy/staleness_max"] for row in steps) <= 2
        assert all(row["policy/rollout_gap_max"] < 1e-4 for row in steps if "policy/rollout_gap_max" in row)
        assert all(row["sync/gib"] > 0 for row in steps)


LEAVES_A_MARK = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    with open({mark!r}, "a") as mark:
        mark.write(".")
    return {{"score": float(len(solution_str) % 2), "acc": len(solution_str) % 2 == 1}}
"""


@pytest.mark.slow
def test_a_hung_or_killed_worker_ends_the_run_and_the_next_start_resumes(
    write_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "verifier.py").write_text(LEAVES_A_MARK.format(mark=str(tmp_path / "mark")))
    # Many epochs, so that the updates of a step outlast the signal's way.
    sections = {
        "evaluation": {},
        "batch": {"prompts_per_step": 4, "prompts_per_update": 2, "epochs": 20},
        "reward": {"functions": [{"fn": f"{tmp_path}/verifier.py:compute_score"}], "workers": 1},
    }
    recipe = write_recipe(cluster={**TWO_WORKERS, "deadlines": {"train": 15}}, **sections)

    said, output, workers = interrupted(recipe, tmp_path / "run", signal.SIGSTOP)
    assert "resuming" not in said
    assert "error: no answer to " in output
    assert "within 15 s (cluster.deadlines.train)" in output
    assert f"what they were doing is in {tmp_path / 'run' / 'stacks'}" in output
    waits_for = r"rank \d waits in \w+ \(called by \w+, [\w/]+\.py:\d+\) for rank \d, which is stopped"
    assert re.search(rf" from 2 of 2 workers: {waits_for}", output)
    stacks = "".join(path.read_text() for path in (tmp_path / "run" / "stacks").iterdir())
    assert "Timeout (0:00:15)!" in stacks, (
        "of the worker that waits for the other, which cannot write any more"
    )
    assert 'training/fsdp.py", line' in stacks

    done = newest_checkpoint(tmp_path / "run")
    said, output, workers = interrupted(recipe, tmp_path / "run", signal.SIGKILL)
    assert f"resuming after step {done} from" in said
    assert "error: worker " in output
    assert "died in" in output
    assert f"(process {workers[1].pid})" in output

    done = newest_checkpoint(tmp_path / "run")
    said, output, workers = interrupted(recipe, tmp_path / "run", signal.SIGTERM, to_the_driver=True)
    assert f"resuming after step {done} from" in said
    assert output == "", "a step is finished, and saved, without an error message"

    done = newest_checkpoint(tmp_path / "run")
    assert done == rows(tmp_path / "run")[-1]["step"]
    # In one process, which starts faster; a checkpoint of two ranks is for any number of them.
    again = run(write_recipe(**sections), f"run.steps={done + 1}")
    assert again.returncode == 0, again.stderr
    assert f"resuming after step {done} from" in again.stdout
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, done + 2))


def newest_checkpoint(output: Path) -> int:
    """Its step; 0 if there is none."""
    latest = output / "checkpoints" / "latest"
    return int(latest.read_text().removeprefix("step_")) if latest.exists() else 0


def interrupted(
    recipe: Path, output: Path, number: signal.Signals, *, to_the_driver: bool = False
) -> tuple[str, str, list[psutil.Process]]:
    """Start or resume a run, send a signal to its last worker, or to the driver, in the updates after a finished step.

    Returns what the run wrote to stdout and stderr, and its workers.
    """
    before = newest_checkpoint(output)
    process = subprocess.Popen(
        command(recipe, "run.steps=100000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while newest_checkpoint(output) == before:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = sorted(filter(is_worker, children), key=lambda child: child.pid)
        assert len(workers) == 2
        wait_until_scored(process, output.with_name("mark"))
        (process if to_the_driver else workers[1]).send_signal(number)
        sent = time.monotonic()
        said, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert time.monotonic() - sent < DEADLINE
    assert process.returncode == (130 if to_the_driver else 3)
    assert to_the_driver or "The same command resumes from the newest checkpoint" in errors
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "all workers were stopped"
    return said, errors, workers


def wait_until_scored(process: subprocess.Popen[str], mark: Path) -> None:
    """Until the responses of a further step are scored, so that the model is trained on them."""
    before = size = mark.stat().st_size
    while size == before or size != mark.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        size = mark.stat().st_size
        time.sleep(0.2)


def is_worker(process: psutil.Process) -> bool:
    try:
        return "ray::RayWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@contextmanager
def evaluation_pool(tiny_run: dict[str, Any], output: Path, **changes: Any) -> Iterator[Any]:
    """Two workers that only generate, started by this process."""
    config = EvalConfig.model_validate(
        {
            "recipe": "eval",
            "run": {"output_dir": output},
            "model": tiny_run["model"],
            "evaluation": {"datasets": tiny_run["evaluation"]["datasets"]},
            "reward": tiny_run["reward"],
            "rollout": {"sampling": {"max_response_tokens": 200}},
            "cluster": TWO_WORKERS,
            **changes,
        }
    )
    with launch_pool(config, print) as pool:
        yield pool


def test_an_error_in_a_worker_arrives_with_its_rank_machine_and_traceback(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    requests = [GenerationRequest((2, 3, 4), 2, seed=number) for number in range(5)]
    sampling = SamplingConfig(max_response_tokens=8)
    with evaluation_pool(tiny_run, tmp_path) as pool:
        assert [len(group) for group in pool.generate(requests, sampling)] == [2] * 5
        with pytest.raises(WorkerError) as error:
            pool.generate([GenerationRequest((), 1, seed=0)], sampling)
    text = str(error.value)
    assert text.startswith(f"worker 0 of 2, on {os.uname().nodename} (process ")
    assert "failed in generate: ValueError: request 0 has an empty prompt" in text
    assert 'rollout/in_flight.py", line' in text, "the worker's own traceback"


def test_a_model_that_does_not_load_is_the_users_error(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tree = {**tiny_run, "model": {"path": str(tmp_path / "empty")}}
    with pytest.raises(UserError, match=r"model\.path"), evaluation_pool(tree, tmp_path / "out"):
        pass
