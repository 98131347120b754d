"""What would be installed: the resolver's answer for each combination of extras, without installing anything.

    python scripts/resolve.py > resolved.md

Prints Markdown tables, for docs/how_to/air_gapped.md: one with the versions of scripts/constraints.txt and
scripts/constraints-gpu.txt, as scripts/env.sh installs on a machine with a GPU, and one without, as pip installs.
Needs uv (pip install uv) and the package index; uv reads the packages' metadata and downloads no wheel of any size.
For a combination that cannot be resolved, uv's reason stands in place of the versions; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12")
PLATFORM = "x86_64-manylinux_2_28"
CONSTRAINTS = ("scripts/constraints.txt", "scripts/constraints-gpu.txt")
# Those that README.md names; last what scripts/test.sh installs where there is a GPU.
COMBINATIONS = (
    "",
    "vllm",
    "cluster",
    "megatron",
    "flash-attn",
    "vllm,cluster",
    "vllm,cluster,megatron",
    "cluster,data,dev,gguf,megatron,notebook,preferences,report,school-math,test,verifiers,vllm",
)
# Column of the table -> package.
SHOWN = {
    "torch": "torch",
    "CUDA": "nvidia-cuda-runtime",
    "transformers": "transformers",
    "vLLM": "vllm",
    "ray": "ray",
    "verl": "verl",
    "megatron-core": "megatron-core",
    "flash-attn": "flash-attn",
    "numpy": "numpy",
    "tensordict": "tensordict",
}


def resolve(extras: str, python: str, constraints: tuple[str, ...]) -> dict[str, str]:
    """Package -> version for these extras, separated by commas. Raises RuntimeError with uv's reason."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--quiet", "--no-annotate", "--no-header"]
    command += ["--python-version", python, "--python-platform", PLATFORM]
    command += [f"--extra={extra}" for extra in extras.split(",") if extra]
    command += [f"--constraint={file}" for file in constraints]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise RuntimeError(" ".join(done.stderr.split()))
    return dict(line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)


def row(extras: str, python: str, versions: dict[str, str]) -> str:
    """A row of the table."""
    cells = [f"`{extras}`" if extras else "none", python]
    return " | ".join([*cells, *(versions.get(package, "") for package in SHOWN.values())])


def rows(constraints: tuple[str, ...]) -> tuple[list[str], bool]:
    """The rows of a table, Pythons with the same answer together, and whether all could be resolved."""
    found, whole = [], True
    for extras in COMBINATIONS:
        pythons: dict[str, list[str]] = {}
        for python in PYTHONS:
            try:
                answer = row(extras, "{}", resolve(extras, python, constraints))
            except RuntimeError as error:
                answer, whole = f"`{extras}` | {{}} | {error}", False
            pythons.setdefault(answer, []).append(python)
        found += [f"| {answer.replace('{}', ', '.join(same))} |" for answer, same in pythons.items()]
    return found, whole


def main() -> int:
    """Print both tables; returns the exit status, 2 where uv is missing."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if shutil.which("uv") is None:
        print("resolve.py: the program uv is not installed: pip install uv", file=sys.stderr)
        return 2
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    complete = True
    for title, constraints in (("With the constraints", CONSTRAINTS), ("Without constraints", ())):
        print(f"{title}, {today}:\n")
        print("| extras | Python | " + " | ".join(SHOWN) + " |")
        print("|---" * (len(SHOWN) + 2) + "|")
        found, whole = rows(constraints)
        print("\n".join(found) + "\n", flush=True)
        complete = complete and whole
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
