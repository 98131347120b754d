"""The Megatron checks for GPUs run on a CPU with tiny sizes; without a GPU there is no TransformerEngine to check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"


@pytest.mark.slow
def test_megatron_checks_run_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("mbridge")
    report = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--only", "megatron", "megatron-te"]
    done = subprocess.run(
        [*command, "--json", str(report)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    checks = json.loads(report.read_text())["checks"]
    assert done.returncode == 0, checks
    assert checks["megatron-te"]["verdict"] == "skipped"
    assert checks["megatron"]["verdict"] == "ok"
    figures = checks["megatron"]["figures"]
    assert figures["attention"] == "PackedAttention"
    assert figures["parameters"] == 408448
    assert 0 < figures["float32_gap_max_nats"] < 2e-5
    assert figures["resumed_equal_to_the_bit"] is figures["offloaded_equal_to_the_bit"] is True
    assert figures["objective_after"] > figures["objective_before"]
