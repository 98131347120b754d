"""DAPO learns the quickstart's task with every rollout engine and layout of workers that a CPU can run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opened import check_report

from reasoner_rl.evaluation.reference import Watch
from reasoner_rl.trainer.reference import follow_run, load_reference

STEPS = 6  # accuracy is then above 0.6 from 0.16; the rest of the quickstart's curve is not asserted here
HELD_OUT = 120  # problems that are evaluated, of 300
LAYOUTS = {
    "vllm in process": ["rollout.engine.kind=vllm"],
    "vllm, two replicas": ["rollout.engine.kind=vllm", "cluster.kind=ray", "cluster.workers_per_node=2"],
    "vllm, tensor parallel": [
        *("rollout.engine.kind=vllm", "rollout.engine.tensor_parallel=2"),
        *("cluster.kind=ray", "cluster.workers_per_node=2"),
    ],
    "vllm and megatron, tensor parallel": [
        *("rollout.engine.kind=vllm", "training.backend.kind=megatron", "training.backend.tensor_parallel=2"),
        "training.offload=all",
        *("cluster.kind=ray", "cluster.workers_per_node=2"),
    ],
}


def follow(output: Path) -> Watch:
    """The run along the reference of the quickstart, of whose first steps it has other samples."""
    watch = follow_run(output, load_reference("quickstart"))
    assert watch.compared["reward/score"] == watch.compared["train/grad_norm"] == STEPS
    return watch


def read(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary of a run, and the metrics of its steps."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return json.loads((output / "summary.json").read_text()), [line for line in lines if "train/lr" in line]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A quickstart of a few steps: data, warm start, and DAPO with the embedded engine in this process."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    script = [sys.executable, str(repository / "scripts" / "quickstart.py"), "--out", str(folder)]
    short = [f"run.steps={STEPS}", "evaluation.every_steps=null", f"evaluation.datasets.0.limit={HELD_OUT}"]
    subprocess.run([*script, *short], check=True, timeout=1200)
    return folder


@pytest.mark.slow
def test_the_embedded_engine_learns(quickstart: Path) -> None:
    summary, steps = read(quickstart / "rl")
    assert len(steps) == STEPS
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.3
    assert follow(quickstart / "rl").departed == {}


@pytest.mark.slow
def test_the_report_shows_what_the_files_hold(browser: Any, quickstart: Path, tmp_path: Path) -> None:
    check_report(browser, quickstart / "rl", tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("vllm_on_cpu")
def test_vllm_learns(layout: str, quickstart: Path, tmp_path: Path) -> None:
    if "cluster.kind=ray" in LAYOUTS[layout]:
        pytest.importorskip("ray")
        pytest.importorskip("verl")
    if "training.backend.kind=megatron" in LAYOUTS[layout]:
        pytest.importorskip("megatron.core")
    overrides = {
        "run.output_dir": tmp_path / "rl",
        "run.steps": STEPS,
        "model.path": quickstart / "warm_start" / "final",
        "data.train.path": quickstart / "data" / "train.jsonl",
        "evaluation.datasets.0.path": quickstart / "data" / "heldout.jsonl",
        "evaluation.datasets.0.limit": HELD_OUT,
        "evaluation.every_steps": "null",
        "rollout.sync_check": "tensors",
    }
    command = [sys.executable, "-m", "reasoner_rl.cli", "train", "quickstart"]
    command += [f"{key}={value}" for key, value in overrides.items()]
    subprocess.run([*command, *LAYOUTS[layout]], check=True, timeout=1200)
    summary, steps = read(tmp_path / "rl")
    assert len(steps) == STEPS
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.3
    assert follow(tmp_path / "rl").departed == {}
    # Of fresh responses vLLM's logprobs are the trainer's, at every step, with every layout.
    assert max(step["policy/rollout_gap_max"] for step in steps) < 1e-4
