"""Which device this process trains and generates on, and the check that no GPU is left unused by mistake."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

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
