"""A checkpoint's manifest: length and SHA-256 of every file, so that a file that changed on the disk is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reasoner_rl.errors import UserError

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 22
# Hashing leaves the interpreter's lock, and files are many where they are large: one per rank at least.
_THREADS = 8


def write_manifest(folder: Path) -> None:
    """Hash every file in ``folder`` and write the result into it. Files that are added later are not covered."""
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    )
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        entries = list(pool.map(lambda name: _entry(folder / name), names))
    text = json.dumps({"files": dict(zip(names, entries, strict=True))}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def has_manifest(folder: Path) -> bool:
    """Whether ``folder`` can be verified at all."""
    return (folder / MANIFEST).is_file()


def verify_manifest(folder: Path) -> None:
    """Compare every file with the manifest. Raises UserError with the first file that differs and how."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        saved = [(name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for problem in pool.map(lambda file: _problem(folder, *file), saved):
            if problem:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(problem)


def _problem(folder: Path, name: str, length: int, digest: str) -> str | None:
    path = folder / name
    try:
        found = path.stat().st_size
        if found != length:
            return f"{name} has {found:,} bytes, and {length:,} were saved"
        if _entry(path)["sha256"] != digest:
            return f"{name} has other contents than were saved (SHA-256)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _entry(path: Path) -> dict[str, Any]:
    length, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)
    return {"bytes": length, "sha256": digest.hexdigest()}
