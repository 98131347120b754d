"""A GPU that torch does not see is an error, unless it is hidden on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.errors import UserError
from reasoner_rl.training import device
from reasoner_rl.training.device import (
    ALLOCATOR_VARIABLES,
    CopyStream,
    driver_version,
    gpus_of_machine,
    prepare_allocator,
    unused_gpus,
    wants_expandable_segments,
)

GPUS = ["GPU 0: NVIDIA H100 80GB HBM3", "GPU 1: NVIDIA H100 80GB HBM3"]


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_not_missed(visible: str) -> None:
    assert unused_gpus("2.13.0", "13.0", visible, GPUS, "550.54.15") is None


def test_a_machine_without_gpus_is_fine() -> None:
    assert unused_gpus("2.13.0", "13.0", None, [], None) is None
    assert unused_gpus("2.13.0+cpu", None, "0", [], None) is None


def test_a_driver_too_old_is_named_with_what_is_needed() -> None:
    told = unused_gpus("2.13.0", "13.0", None, GPUS, "570.133.20")
    assert told is not None
    assert told.startswith("this machine has 2 GPUs (GPU 0: NVIDIA H100 80GB HBM3), and torch 2.13.0")
    assert "driver 570.133.20 is too old, CUDA 13.0 needs 580.65 or newer" in told
    assert told.endswith('to run on the CPU on purpose, set CUDA_VISIBLE_DEVICES=""')


@pytest.mark.parametrize(
    ("build", "driver"), [("13.0", "580.65.06"), ("12.8", "570.133.20"), ("14.0", "1.0")]
)
def test_a_driver_that_is_new_enough_is_not_blamed(build: str, driver: str) -> None:
    told = unused_gpus("2.13.0", build, "7", GPUS, driver)
    assert told is not None
    assert "too old" not in told
    assert "CUDA_VISIBLE_DEVICES=7: do these exist?" in told


def test_a_build_for_cpus_beside_a_gpu_is_named() -> None:
    told = unused_gpus("2.13.0+cpu", None, None, GPUS[:1], "580.65.06")
    assert told is not None
    assert "this machine has 1 GPU (GPU 0" in told
    assert "torch 2.13.0+cpu is built for CPUs alone: install a build for CUDA" in told


def fake_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, 'echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"; echo "  MIG 1g"', monkeypatch)
    assert gpus_of_machine(tmp_path) == ["GPU 0: NVIDIA H100"]
    fake_nvidia_smi(tmp_path, 'echo "No devices were found"', monkeypatch)
    (tmp_path / "nvidia0").touch()
    assert gpus_of_machine(tmp_path) == [], "of a job that was given none"


def test_device_files_stand_in_where_nvidia_smi_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    fake_nvidia_smi(tmp_path, "echo 'Driver/library version mismatch' >&2; exit 18", monkeypatch)
    wanted = [str(tmp_path / "nvidia0"), str(tmp_path / "nvidia1")]
    assert gpus_of_machine(tmp_path) == wanted
    (tmp_path / "nvidia-smi").unlink()
    assert gpus_of_machine(tmp_path) == wanted
    assert gpus_of_machine(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n", "580.65.06"),
        ("something else", None),
    ],
)
def test_the_drivers_version_is_read(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "absent") is None


def test_no_run_starts_on_the_cpu_beside_a_gpu_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    device.unused_gpus_here.cache_clear()
    try:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(device, "gpus_of_machine", lambda: GPUS)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with pytest.raises(UserError, match="this machine has 2 GPUs"):
            device.default_device()
        device.unused_gpus_here.cache_clear()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert device.default_device() == torch.device("cpu")
    finally:
        device.unused_gpus_here.cache_clear()


def test_expandable_segments_are_for_gpus_without_a_sleeping_vllm_and_never_against_the_user() -> None:
    fits: dict[str, Any] = {"cuda_version": "13.0", "has_gpu": True, "sleep_mode": False}
    assert wants_expandable_segments({}, **fits)
    for change in ({"cuda_version": None}, {"has_gpu": False}, {"sleep_mode": True}):
        assert not wants_expandable_segments({}, **(fits | change)), change
    for name in ALLOCATOR_VARIABLES:
        assert not wants_expandable_segments({name: "max_split_size_mb:512"}, **fits), name
        assert wants_expandable_segments({name: ""}, **fits), "an empty variable sets nothing"


def test_the_allocator_is_set_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", given.append, raising=False)
    prepare_allocator(sleep_mode=False)
    assert given == [], "there is no GPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    prepare_allocator(sleep_mode=True)
    assert given == []
    prepare_allocator(sleep_mode=False)
    assert given == ["expandable_segments:True"]


class FakeTensor:
    """Writes down what is done with it, and on which stream."""

    def __init__(self, log: Log, name: str, device: str) -> None:
        self.log, self.name, self.device = log, name, torch.device(device)

    def to(self, device: torch.device, *, non_blocking: bool) -> FakeTensor:
        assert non_blocking
        self.log.note(f"{self.name}.to {device}")
        return FakeTensor(self.log, f"{self.name}'", str(device))

    def copy_(self, other: FakeTensor, *, non_blocking: bool) -> None:
        assert non_blocking
        self.log.note(f"{self.name} <- {other.name}")

    def record_stream(self, stream: FakeStream) -> None:
        self.log.note(f"{self.name} is used by {stream.name}")


class FakeStream:
    """Writes down whom it waits for."""

    def __init__(self, log: Log, name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: FakeStream) -> None:
        self.log.note(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.log.note(f"the host waits for {self.name}")


class Log:
    """Plays torch's streams of a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.current = self.computing = FakeStream(self, "compute")
        monkeypatch.setattr("torch.cuda.Stream", lambda device: FakeStream(self, "copy"))
        monkeypatch.setattr("torch.cuda.current_stream", lambda: self.current)
        monkeypatch.setattr("torch.cuda.stream", self.on)
        monkeypatch.setattr("torch.empty_like", self.empty_like)

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.computing

    def empty_like(self, other: FakeTensor, *, device: torch.device) -> FakeTensor:
        self.note(f"room for {other.name}")
        return FakeTensor(self, f"{other.name}'", str(device))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.current.name}: {line}")

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return taken


def test_copies_wait_for_who_wrote_and_memory_is_kept_until_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log(monkeypatch)
    cuda, cpu = torch.device("cuda:0"), torch.device("cpu")
    copies = CopyStream(cuda)
    moments: Any = FakeTensor(log, "m", "cuda:0")
    away = copies.move(moments, cpu)
    assert log.take() == ["compute: copy waits for compute", "copy: m.to cpu", "compute: m is used by copy"]
    assert copies.move(away, cpu) is away
    copies.finish()
    assert log.take() == ["compute: the host waits for copy"]
    back = copies.move(away, cuda)
    assert back.device == cuda
    assert log.take() == [
        "compute: room for m'",
        "compute: copy waits for compute",
        "copy: m'' <- m'",
        "compute: m'' is used by copy",
    ]
    copies.wait()
    assert log.take() == ["compute: compute waits for copy"]


def test_on_a_cpu_nothing_moves_and_nobody_waits() -> None:
    copies, tensor = CopyStream(torch.device("cpu")), torch.ones(2)
    assert copies.move(tensor, torch.device("cpu")) is tensor
    copies.wait()
    copies.finish()
