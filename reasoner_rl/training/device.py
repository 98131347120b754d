"""The device of this process: which it is, its allocator and its copies, and that no GPU is left unused by mistake."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from reasoner_rl.errors import UserError

_HIDDEN = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that show no GPU; the last is Slurm's
# CUDA's major version -> the oldest driver that runs programs built for it (NVIDIA's CUDA compatibility guide).
_OLDEST_DRIVER = {"12": "525.60", "13": "580.65"}
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_ANSWER_SECONDS = 60.0  # for nvidia-smi, which initialises the driver where nothing else uses it


def default_device() -> torch.device:
    """The GPU of this process if torch sees one, else the CPU.

    Raises UserError if torch sees none although this machine has GPUs that are not hidden from it.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    problem = unused_gpus_here()
    if problem is not None:
        raise UserError(problem)
    return torch.device("cpu")


class CopyStream:
    """Copies between a GPU and host memory on a stream of their own, beside the stream that computes.

    Host memory is pinned: torch keeps it when a tensor is dropped, and gives it to the next copy of that size. On a CPU
    there is no stream, and nothing to move.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def move(self, tensor: Tensor, device: torch.device) -> Tensor:
        """``tensor`` in the memory of the GPU or of the host, or itself if it is there.

        The copy may still be on its way: `wait`, or `finish`, before anything reads it.
        """
        if tensor.device == device:
            return tensor
        assert self._stream is not None
        if device.type == "cpu":
            self._stream.wait_stream(torch.cuda.current_stream())  # which may still write the tensor
            with torch.cuda.stream(self._stream):
                moved = tensor.to(device, non_blocking=True)
            _local(tensor).record_stream(
                self._stream
            )  # its memory is not reused before the copy has been made
            return moved
        moved = torch.empty_like(tensor, device=device)  # of the memory of the stream that computes
        self._stream.wait_stream(torch.cuda.current_stream())  # which may still use what that memory held
        with torch.cuda.stream(self._stream):
            _local(moved).copy_(_local(tensor), non_blocking=True)
        _local(moved).record_stream(self._stream)
        return moved

    def wait(self) -> None:
        """Let the current stream wait for all copies; the host does not."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def finish(self) -> None:
        """Let the host wait for all copies."""
        if self._stream is not None:
            self._stream.synchronize()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# Where users set torch's allocator.
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def wants_expandable_segments(
    environment: Mapping[str, str], *, cuda_version: str | None, has_gpu: bool, sleep_mode: bool
) -> bool:
    """Whether torch's allocator should grow its segments, which keeps long runs of varied lengths from fragmenting.

    Not where vLLM sleeps in this process: its pool unmaps memory itself, and torch cannot have both (vLLM 0.31 switches
    segments off around its pool, older versions refuse). Not where the user has set anything of the allocator, which
    torch would forget. Only NVIDIA's (``cuda_version`` of torch's build) are meant.
    """
    set_by_user = any(environment.get(name) for name in ALLOCATOR_VARIABLES)
    return has_gpu and cuda_version is not None and not sleep_mode and not set_by_user


def prepare_allocator(*, sleep_mode: bool) -> None:
    """Let torch's allocator have expandable segments in this process, where `wants_expandable_segments` says so.

    Only this process: a variable of the environment would reach those it starts, and there vLLM may sleep.
    """
    wanted = wants_expandable_segments(
        os.environ,
        cuda_version=torch.version.cuda,
        has_gpu=torch.cuda.is_available(),
        sleep_mode=sleep_mode,
    )
    if wanted:
        _set_allocator("expandable_segments:True")


def _set_allocator(settings: str) -> None:
    newer = getattr(
        torch._C, "_accelerator_setAllocatorSettings", None
    )  # the name in newer versions of torch
    (newer or torch.cuda.memory._set_allocator_settings)(settings)


@functools.cache
def unused_gpus_here() -> str | None:
    """Why torch does not see this machine's GPUs, and what to do; None if it sees one, or there is none for it to see.

    The first call asks nvidia-smi, which can take a second; later calls return the same.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available() or visible in _HIDDEN:
        return None
    build = torch.version.cuda or torch.version.hip
    return unused_gpus(torch.__version__, build, visible, gpus_of_machine(), driver_version())


def unused_gpus(
    torch_version: str, build: str | None, visible: str | None, gpus: Sequence[str], driver: str | None
) -> str | None:
    """The message for a user whose torch sees no GPU; None if it has none, or they are hidden on purpose.

    build: CUDA (or ROCm) version that torch was built for, None if for the CPU alone.
    visible: CUDA_VISIBLE_DEVICES, None if unset. gpus: names of the GPUs that the machine shows without torch.
    driver: version of the machine's NVIDIA driver, if known.
    """
    if not gpus or visible in _HIDDEN:
        return None
    force = 'to run on the CPU on purpose, set CUDA_VISIBLE_DEVICES=""'
    found = f"this machine has {len(gpus)} GPU{'s' if len(gpus) > 1 else ''} ({gpus[0]})"
    if build is None:
        return (
            f"{found}, and torch {torch_version} is built for CPUs alone: install a build for CUDA "
            f"(scripts/env.sh does; check PIP_EXTRA_INDEX_URL), or {force}"
        )
    needed = _OLDEST_DRIVER.get(build.partition(".")[0])
    reason = (
        f"CUDA_VISIBLE_DEVICES={visible}: do these exist?" if visible is not None else "nvidia-smi tells more"
    )
    if needed is not None and driver is not None and _numbers(driver) < _numbers(needed):
        reason = (
            f"its driver {driver} is too old, CUDA {build} needs {needed} or newer: update the driver, or install a "
            "torch that is built for an older CUDA (REASONER_RL_TORCH_SPEC of scripts/env.sh)"
        )
    return f"{found}, and torch {torch_version}, built for CUDA {build}, sees none of them: {reason}; {force}"


def gpus_of_machine(devices: Path = Path("/dev")) -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, without torch: by nvidia-smi, or else by their device files.

    A container or a batch job that was given no GPU has none here, although the machine may have some.
    """
    if shutil.which("nvidia-smi") is not None:
        try:
            listed = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            listed = None
        if listed is not None and listed.returncode == 0:
            return [
                line.partition(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")
            ]
    # Without nvidia-smi, or where it fails as it does after an update of the driver.
    files = sorted(path for path in devices.glob("nvidia[0-9]*") if path.name[6:].isdigit())
    return [str(path) for path in files if _opens(path)]


def driver_version(file: Path = _DRIVER_FILE) -> str | None:
    """Version of the loaded NVIDIA driver, such as 580.65.06; None if there is none."""
    try:
        text = file.read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
