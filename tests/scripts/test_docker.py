"""scripts/docker: what can be checked of the image without building it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "scripts" / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    result = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_extras_and_copied_files_exist_and_are_sent_to_the_build() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"-e '\.\[(.*)\]'", TEXT)
    assert extras.split(",") == ["vllm", "cluster", "megatron"]
    assert set(extras.split(",")) <= set(pyproject["optional-dependencies"])
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", TEXT, re.M) for word in line.split()]
    assert copied == ["scripts/constraints.txt", "scripts/constraints-gpu.txt", "."]
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert "*" in ignore
    assert all((ROOT / name).exists() for name in [*copied, *sent])
    needed = {
        "pyproject.toml",
        pyproject["readme"],
        *pyproject["license-files"],
        "reasoner_rl",
        "reward_fns",
        "scripts",
    }
    assert set(sent) == needed


def test_the_image_has_the_cuda_version_of_torch_and_a_user_who_is_not_root() -> None:
    (cuda,) = re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-devel-ubuntu24\.04$", TEXT, re.M)
    (torch,) = re.findall(r"^torch==(.*)$", (ROOT / "scripts" / "constraints.txt").read_text(), re.M)
    assert (
        f"| torch | {torch} (CPU build) | {torch} (CUDA {cuda}) |"
        in (ROOT / "docs" / "start" / "install.md").read_text()
    )
    assert re.findall(r"^USER (.*)$", TEXT, re.M) == ["$UID"]
    (uid,) = re.findall(r"^ARG UID=(\d+)$", TEXT, re.M)
    assert int(uid) > 0
