"""Checkpoints as numbered folders that are either whole or absent, and what to say of one that cannot be read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.api import CheckpointException

from reasoner_rl.errors import DataError, DiskFullError, UserError, WorkerError, is_interruption
from reasoner_rl.training.disk_space import filled_folder, flush, flush_folder, size_of
from reasoner_rl.training.manifest import has_manifest, verify_manifest, write_manifest

_FOLDER = re.compile(r"step_(\d{6,})")


class CheckpointStore:
    """The folders ``step_000010``, ``step_000020``, ... and, for people and scripts, ``latest`` naming the newest.

    expected_bytes: size of the first checkpoint, as far as known; later ones need as much as the newest.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.expected_bytes: int | None = None

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a temporary folder, add a manifest, rename the folder; then older ones are deleted.

        Whatever interrupts, no folder is half-written, and nothing of it stays if ``write`` fails. A checkpoint of
        the same step that is there already is kept: it has the same weights. Raises DiskFullError if there is no
        room, and UserError if the name is taken by something else.
        """
        final, newest = self.folder_of(step), self.latest()
        if self.holds(step):
            return final
        if final.exists():
            raise UserError(f"{final} is a file, where the checkpoint of step {step} belongs: move it away")
        partial = self.folder / f".partial_{step:06d}"
        try:
            with filled_folder(partial, f"the checkpoint of step {step}", self.needed_bytes()):
                write(partial)
                write_manifest(partial)
                flush_folder(partial)
                self._name_next(final.name)  # now, so that its room is there when the folder takes its place
        except DiskFullError as error:
            kept = f"the same command resumes from {newest[1].name}" if newest else "nothing was saved before"
            raise DiskFullError(f"{error}; {kept}") from error
        partial.rename(final)
        self._next_pointer.replace(self._pointer)
        flush(self.folder)
        self.tidy()
        return final

    def needed_bytes(self) -> int | None:
        """Size of the next checkpoint, as far as known."""
        newest = self.latest()
        return size_of(newest[1]) if newest else self.expected_bytes

    def holds(self, step: int) -> bool:
        """Whether there is a checkpoint of a step."""
        return self.folder_of(step).is_dir()

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, if there is one."""
        return self.folder / f"step_{step:06d}"

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint, or None."""
        steps = self.all()
        return steps[-1] if steps else None

    @property
    def _pointer(self) -> Path:
        return self.folder / "latest"

    @property
    def _next_pointer(self) -> Path:
        return self.folder / ".latest"  # takes the place of the former

    def _name_next(self, name: str) -> None:
        try:
            self._next_pointer.write_text(name + "\n")
            flush(self._next_pointer)
        except BaseException:
            self._next_pointer.unlink(missing_ok=True)
            raise

    def remove_partial(self) -> None:
        """Delete what a write that was killed has left. No other process may be writing."""
        for partial in self.folder.glob(".partial_*"):
            shutil.rmtree(partial)
        self._next_pointer.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Point to the newest checkpoint and delete old ones, also where a process was killed before it could."""
        self.remove_partial()
        steps = self.all()
        if not steps:
            return
        name = steps[-1][1].name
        if not self._pointer.is_file() or self._pointer.read_bytes() != f"{name}\n".encode():
            self._name_next(name)
            self._next_pointer.replace(self._pointer)
        for _, old in steps[: -self.keep_last]:
            shutil.rmtree(old)

    def all(self) -> list[tuple[int, Path]]:
        """Step and folder of every checkpoint, in order of the steps. Files of such names are none."""
        if not self.folder.is_dir():
            return []
        matches = ((_FOLDER.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match and path.is_dir())


def verify(folder: Path, remedy: str = "") -> None:
    """Compare a checkpoint with its manifest, if it has one. Raises UserError naming the file that is damaged.

    remedy: what to do then; `way_out` unless given.
    """
    if (problem := _damage(folder)) is not None:
        raise UserError(f"checkpoint {folder} is damaged: {problem}. {remedy or way_out(folder)}")


def way_out(folder: Path) -> str:
    """What to do about a checkpoint that cannot be used: resume from the newest of those before it that is whole."""
    store, own = CheckpointStore(folder.parent, 1), _FOLDER.fullmatch(folder.name)
    older = [path for step, path in store.all() if own and step < int(own[1])]
    for path in reversed(older):
        if _damage(path) is None:
            return f"Delete {folder.name}, and the same command resumes from {path.name}, the one before"
    return "There is none before it that is whole: choose another run.output_dir, or delete this one"


def _damage(folder: Path) -> str | None:
    try:
        if has_manifest(folder):
            verify_manifest(folder)
    except UserError as error:
        return str(error)
    return None


@contextmanager
def reading(folder: Path, remedy: str = "") -> Iterator[None]:
    """Turn what goes wrong in the block into a UserError that names the checkpoint; a DataError is about its files.

    remedy: see `verify`.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is none of the former
        if isinstance(error, UserError | WorkerError | MemoryError) and not isinstance(error, DataError):
            raise
        if is_interruption(error):
            raise KeyboardInterrupt from error
        raise UserError(
            f"checkpoint {folder} is damaged, or of another model: {_reason(error)}. {remedy or way_out(folder)}"
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
