"""scripts/check_wheel.sh: the wheel has what it needs and nothing else, and works without the repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "reasoner_rl"
version = "0.1"
[tool.setuptools.packages.find]
include = ["reasoner_rl*", "reward_fns*", "data*"]
"""

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
pytest.importorskip("build", reason="build is not installed: pip install '.[dev]'")


def check_wheel(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", root / "scripts" / "check_wheel.sh", "--offline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git, of which the wheel is built")
    done = check_wheel(ROOT, tmp_path / "dist")
    assert (done.returncode, done.stderr) == (0, "")
    files, works, left = done.stdout.splitlines()
    assert files.endswith(" files of the packages are in both, and none of another folder")
    assert works.endswith(" installed in an environment of its own works")
    assert left.startswith(f"check_wheel: {tmp_path}/dist has ")
    assert sorted(file.suffix for file in (tmp_path / "dist").iterdir()) == [".gz", ".whl"]


def test_files_that_are_missing_or_do_not_belong_are_named(tmp_path: Path) -> None:
    for package in ("reasoner_rl", "reward_fns", "data"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "reasoner_rl" / "recipe.yaml").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "scripts").mkdir()
    for name in ("check_wheel.sh", "options.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    done = check_wheel(tmp_path, tmp_path / "dist")
    assert (done.returncode, done.stdout) == (1, "")
    first, second, third = done.stderr.splitlines()
    assert (first, second) == ("too much: data/__init__.py", "missing: reasoner_rl/recipe.yaml")
    assert third.startswith(
        "check_wheel: the files of the wheel are not those that git tracks in reasoner_rl/"
    )
    assert not (tmp_path / "dist").exists()
