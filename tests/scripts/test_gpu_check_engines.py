"""The checks of hybrid engine, vLLM and whole runs hold on a CPU with tiny sizes, and see what they are to see."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"
HERE = ["hybrid", "vllm", "quickstart", "ppo", "preferences", "distillation"]
ROUNDS = {
    "hybrid": ["none", "optimizer", "all"],
    "vllm": ["sleep2_none", "sleep2_optimizer", "sleep2_all", "sleep1_all"],
}
WITH_VLLM = pytest.param(
    "vllm", marks=pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")
)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every check's entry in the report."""
    report = tmp_path_factory.mktemp("gpu_check") / "report.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--size",
        "tiny",
        "--limit",
        "900",
        "--json",
        str(report),
        "--only",
        *HERE,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found: dict[str, Any] = json.loads(report.read_text())["checks"]
    assert done.returncode == 0, (done.stdout, {name: check["log"] for name, check in found.items()})
    return found


def numbers(listed: str) -> list[float]:
    return [float(number) for number in listed.split()]


@pytest.mark.parametrize("name", ["hybrid", WITH_VLLM])
def test_the_engines_agree_and_faults_are_seen(name: str, checks: dict[str, Any]) -> None:
    assert checks[name]["verdict"] == "ok"
    figures = checks[name]["figures"]
    rounds = ROUNDS[name]
    gaps, moves = numbers(figures["check_gap_all_nats"]), numbers(figures["update_moves_nats"])
    assert figures["syncs"] == len(gaps) == 7 + len(rounds)
    assert numbers(figures["update_rates"]) == [pytest.approx(1e-6 * (n + 1)) for n in range(6 + len(rounds))]
    assert 0 <= figures["check_gap_min_nats"] == pytest.approx(min(gaps), rel=0.01)
    assert figures["check_gap_max_nats"] < figures["check_gap_limit_nats"] < figures["wrong_tensor_gap_nats"]
    assert figures["wrong_tensor_gap_nats"] > 1
    assert min(moves) > 1e-3
    assert 1e-3 < figures["stale_gap_nats"] < figures["wrong_tensor_gap_nats"]
    for label in rounds:
        one = {
            key.removeprefix(f"{label} "): value
            for key, value in figures.items()
            if key.startswith(f"{label} ")
        }
        assert 1e-4 < one["gap_mean_nats"] < one["gap_p99_nats"] <= one["gap_max_nats"] < 0.5
        assert one["check_gap_nats"] < 0.1
        assert 0 < one["load_s"] < one["publish_s"]
        assert one["tokens_per_s"] > 0
    if name == "vllm":
        assert figures["same_again_share"] == figures["same_after_abort_share"] == 1


def test_the_warm_start_learns(checks: dict[str, Any]) -> None:
    assert checks["quickstart"]["verdict"] == "ok"
    figures = checks["quickstart"]["figures"]
    assert figures["loss_first_nats"] > 4.5, "about log 100 at random"
    assert figures["loss_last_nats"] < 1.5
    assert figures["steps"] == 2
    assert figures["accuracy_before_share"] is None, "nothing is evaluated at tiny size"


def test_four_models_take_turns(checks: dict[str, Any]) -> None:
    assert checks["ppo"]["verdict"] == "ok"
    figures = checks["ppo"]["figures"]
    assert figures["changed_tensors_share"] > 0.5
    assert 1e-4 < figures["policy_rollout_gap_mean"] < 0.1
    assert figures["time_reward_model"] > 0
    assert figures["time_sync_offload"] > 0


def test_pairs_and_a_teacher_are_learnt_from(checks: dict[str, Any]) -> None:
    assert checks["preferences"]["verdict"] == checks["distillation"]["verdict"] == "ok"
    figures = checks["preferences"]["figures"]
    assert figures["answers sampled"] == 128
    assert figures["answers pairs"] > figures["heldout pairs"] > 0
    assert figures["judged pairs"] > figures["heldout pairs"], (
        "with a reward model hardly any scores are equal"
    )
    assert figures["reward_model accuracy_before"] == 0.5, "the head begins as zeros"
    assert checks["distillation"]["figures"]["student teacher_kl"] > 0


def test_a_check_measures_everything_before_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_checks.pair import Claims

    claims = Claims()
    claims.require(True, "nothing")
    claims.conclude()
    claims.require(False, "one is not two")
    claims.require(False, "nor three")
    with pytest.raises(AssertionError, match=r"^one is not two; nor three"):
        claims.conclude()
