"""The empty wheels that let vLLM's CPU build be installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path


def test_pip_installs_them_and_there_is_nothing_to_import(tmp_path: Path, repository: Path) -> None:
    script = repository / "scripts" / "cpu_stand_ins.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "wheels")], check=True, capture_output=True)
    wheels = sorted(str(wheel) for wheel in (tmp_path / "wheels").iterdir())
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
    ]
    subprocess.run([*pip, *wheels], check=True, capture_output=True)
    installed = {found.name: found.version for found in distributions(path=[str(tmp_path / "site")])}
    assert installed == {
        "torchvision": "0.28.0+empty",
        "torchaudio": "2.11.0+empty",
        "torchcodec": "0.17.0+empty",
    }
    assert all(path.name.endswith(".dist-info") for path in (tmp_path / "site").iterdir())


def test_without_a_folder_it_says_what_it_does(repository: Path) -> None:
    script = repository / "scripts" / "cpu_stand_ins.py"
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "cpu_stand_ins.py FOLDER" in result.stderr
