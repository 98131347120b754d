"""Writing folders that need much room: the room is checked before, and nothing half-written stays behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner_rl.errors import DiskFullError, is_interruption, related_errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries that do not raise OSError: safetensors and PyTorch's writer of zip files.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")
_NEXT_TO_NOTHING = 1 << 20  # bytes; less is free where writing has stopped because the disk is full


def partial_of(final: Path) -> Path:
    """Where a folder is written before it takes its place."""
    return final.with_name(f".{final.name}.partial")


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take up."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_room(what: str, folder: Path, need: int | None) -> None:
    """Raise DiskFullError if the disk of ``folder`` has less than ``need`` bytes free; None is not checked."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    have = shutil.disk_usage(existing).free
    if need is not None and have < need:
        raise disk_full(what, folder, need, have)


def disk_full(
    what: str, folder: Path, need: int | None, have: int, cause: BaseException | None = None
) -> DiskFullError:
    """The error for ``what``, which needs more bytes than the ``have`` that are free on the disk of ``folder``.

    need: how many, as far as known. cause: the error that writing ended in.
    """
    enough = need is None or need <= have  # so it seemed, and writing has shown that it is not
    needed = (
        f"more than the {amount(have)}" if enough else f"at least {amount(need or 0)}, and {amount(have)}"
    )
    said = str(cause or "").strip().partition("\n")[0]
    reason = f" ({said})" if said else ""
    return DiskFullError(
        f"{what} does not fit on the disk of {folder}: it needs {needed} {'that ' if enough else ''}are free"
        f"{reason}. Make room there, or choose a run.output_dir on another disk"
    )


@contextmanager
def filled_folder(partial: Path, what: str, need: int | None = None) -> Iterator[None]:
    """Make the folder ``partial``, empty, for the block to fill. If the block fails, the folder is removed.

    need: bytes that will be written, as far as known.

    Raises:
        DiskFullError: before the block if the disk has less room, and after it if the disk became full. ``what`` is
            what was to be written.
        KeyboardInterrupt: if that is what ended the block, also where a library has wrapped it.
    """
    shutil.rmtree(partial, ignore_errors=True)
    check_room(what, partial.parent, need)
    try:
        partial.mkdir(parents=True)
        yield
    except BaseException as error:
        left = shutil.disk_usage(partial.parent).free if partial.exists() else 0
        written = size_of(partial)
        shutil.rmtree(partial, ignore_errors=True)
        if is_interruption(error):
            raise KeyboardInterrupt from error
        missing = max((need or 0) - written, _NEXT_TO_NOTHING)
        saying = _saying_full(error)
        if saying or (left < missing and not isinstance(error, (SystemExit, GeneratorExit))):
            have = shutil.disk_usage(next(p for p in partial.parents if p.exists())).free
            raise disk_full(what, partial.parent, need, have, saying) from error
        raise


def _saying_full(error: BaseException) -> BaseException | None:
    """The innermost of an error's causes that reports a full disk, whose text is the shortest; None if none does."""
    found = [
        related
        for related in related_errors(error)
        if (isinstance(related, OSError) and related.errno in _FULL)
        or any(text in str(related) for text in _FULL_TEXTS)
    ]
    return min(found, key=lambda related: len(str(related)), default=None)


def amount(count: int) -> str:
    """Bytes for people, such as 1.5 GiB."""
    size, units = float(count), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the permissions that any new file gets there.

    safetensors writes files that only their owner can read, whatever the umask, and weights are shared.
    """
    probe = folder / ".permissions"  # a new file: umask and default ACLs give it its mode
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def flush(path: Path) -> None:
    """Have the system write a file or folder to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Have the system write a folder with all that is in it to its disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
