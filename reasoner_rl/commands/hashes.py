"""SHA-256 of files and of checkpoints, by which a change at the same place is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reasoner_rl.distributed.hub import checkpoint_files, is_hub_name


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_hash(path: str) -> str | None:
    """SHA-256 of the names and hashes of a checkpoint's files; None of a name on the hub."""
    if is_hub_name(path):
        return None
    listed = "".join(f"{file.name} {file_hash(file)}\n" for file in checkpoint_files(Path(path)))
    return hashlib.sha256(listed.encode()).hexdigest()
