"""Checkpoints as numbered folders that are either whole or absent, and what to say of one that cannot be read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.api import CheckpointException

from reasoner_rl.errors import UserError, WorkerError

_FOLDER = re.compile(r"step_(\d{6,})")


class CheckpointStore:
    """The folders ``step_000010``, ``step_000020``, ... and, for people and scripts, ``latest`` naming the newest."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a temporary folder, then rename it; an interruption leaves no half-written one.

        A checkpoint of the same step that is there already is kept: it has the same weights.
        """
        final = self.folder / f"step_{step:06d}"
        if final.is_dir():
            return final
        partial = self.folder / f".partial_{step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        _flush_to_disk(partial)
        partial.rename(final)
        _flush(self.folder)
        pointer = self.folder / ".latest"
        pointer.write_text(final.name + "\n")
        pointer.replace(self.folder / "latest")
        self._prune()
        return final

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint, or None."""
        steps = self._steps()
        return max(steps) if steps else None

    def _steps(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        matches = ((_FOLDER.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _prune(self) -> None:
        for _, old in self._steps()[: -self.keep_last]:
            shutil.rmtree(old)
        for partial in self.folder.glob(".partial_*"):
            shutil.rmtree(partial)


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in the block into a UserError that names the checkpoint."""
    try:
        yield
    except (UserError, WorkerError):
        raise
    except (
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        CheckpointException,
    ) as error:
        raise UserError(
            f"checkpoint {folder} is damaged, or of another model: {_reason(error)}. "
            "Delete that folder to go on from an older one, or choose another run.output_dir"
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
