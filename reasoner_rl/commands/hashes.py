"""SHA-256 of files and of checkpoints, by which a change at the same place is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from reasoner_rl.distributed.hub import checkpoint_files, is_hub_name

_PIECE = 1 << 24  # bytes


def file_hash(path: Path, advance: Callable[[int], object] = lambda size: None) -> str:
    """SHA-256 of a file in hexadecimal; ``advance`` is called with the bytes of each piece that was read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


def hash_of_files(
    files: Sequence[Path], folder: Path, advance: Callable[[int], object] = lambda size: None
) -> str:
    """SHA-256 of one line per file: its name below the folder, and its hash. advance: see `file_hash`."""
    lines = [f"{file.relative_to(folder)} {file_hash(file, advance)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def checkpoint_hash(path: str) -> str | None:
    """SHA-256 of the names and hashes of a checkpoint's files; None of a name on the hub."""
    if is_hub_name(path):
        return None
    return hash_of_files(checkpoint_files(Path(path)), Path(path))
