"""scripts/resolve.py asks the resolver for every combination of extras, and tells what it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Python 3.12 has no torch beside flash-attn; megatron is the same for both.
UV = """#!/usr/bin/env bash
[[ $* == *"--python-version 3.12"*--extra=flash-attn* ]] && { echo "no flash-attn" >&2; exit 1; }
[[ $* == *scripts/constraints-gpu.txt* ]] && torch=1.0 || torch=2.0
[[ $* == *"--python-version 3.12"* && $* == *--extra=vllm* ]] && torch=9.9
printf 'numpy==2.1\\ntorch==%s ; platform_machine == "x"\\n' $torch
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[str]]:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "uv").write_text(UV)
    (folder / "uv").chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "resolve.py"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
    )
    return done.returncode, done.stdout.splitlines()


def test_there_is_a_table_with_and_one_without_constraints(printed: tuple[int, list[str]]) -> None:
    _, lines = printed
    assert [line.partition(",")[0] for line in lines if line.endswith(":")] == [
        "With the constraints",
        "Without constraints",
    ]
    megatron = [line for line in lines if line.startswith("| `megatron` |")]
    assert [line.split(" | ")[1:3] for line in megatron] == [["3.11, 3.12", "1.0"], ["3.11, 3.12", "2.0"]]
    assert all(line.endswith("| 2.1 |  |") for line in megatron), "numpy, and no tensordict"


def test_pythons_with_different_answers_have_a_row_each(printed: tuple[int, list[str]]) -> None:
    rows = [line.split(" | ")[1:3] for line in printed[1] if line.startswith("| `vllm` |")]
    assert rows == [["3.11", "1.0"], ["3.12", "9.9"], ["3.11", "2.0"], ["3.12", "9.9"]]


def test_a_missing_uv_is_told_and_help_asks_for_nothing(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "scripts" / "resolve.py", *arguments]
        environment = os.environ | {"PATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    missing = run()
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "resolve.py: the program uv is not installed: pip install uv\n"
    assert run("--help").stdout.startswith("usage: resolve.py")


def test_what_cannot_be_resolved_is_told_with_the_reason(printed: tuple[int, list[str]]) -> None:
    status, lines = printed
    assert status == 1
    assert lines.count("| `flash-attn` | 3.12 | no flash-attn |") == 2
