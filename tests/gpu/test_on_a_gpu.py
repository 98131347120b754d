"""What a GPU computes, by the checks of scripts/gpu_check.py at their smallest size. All others are for that script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = ("attention", "logprobs", "parity", "resume")


@pytest.mark.gpu
def test_a_gpu_computes_what_it_should(repository: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(repository / "scripts" / "gpu_check.py"), "--size", "tiny"]
    command += ["--work", str(tmp_path / "work"), "--json", str(report), "--only", *CHECKS]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    checks = json.loads(report.read_text())["checks"]
    assert {name: check["verdict"] for name, check in checks.items()} == dict.fromkeys(CHECKS, "ok")
    figures = checks["attention"]["figures"]
    assert "bfloat16 shared torch_varlen gradient_error" in figures, "the flash kernel ran"
