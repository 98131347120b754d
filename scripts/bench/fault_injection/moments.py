"""Faults at exact moments of a command: before its n-th operation on the files of a folder.

Python's audit events tell of every file that is opened for writing, renamed or removed, and of every folder that is
made; `os.fsync` is counted as well. Writers in C++ (safetensors) are seen by the folders and renames around them.
What is injected is a picklable object that is called in the command's process (see `processes.Command`).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_NAMES = {
    **{"os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir"},
    "os.truncate": "truncate",
}
OnOperation = Callable[[int, str, str], None]  # number from 0, what, path relative to the folder


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a command on a folder's files."""

    what: str  # open (for writing), rename, remove, mkdir, rmdir, truncate or fsync
    path: str  # relative to the folder; of a rename the old name

    @property
    def kind(self) -> str:
        """The operation without the numbers in the path: operations of the same kind are alike."""
        return f"{self.what} {re.sub('[0-9]+', 'N', self.path)}"


@dataclass(frozen=True, slots=True)
class Record:
    """Writes every operation on ``folder`` to ``log``; does nothing else."""

    folder: Path
    log: Path

    def __call__(self) -> None:
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _watch(self.folder, lambda _, what, path: _write(descriptor, f"{what}\t{path}\n"))


def read_operations(log: Path) -> list[Operation]:
    """What `Record` wrote."""
    return [Operation(*line.split("\t")) for line in log.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True, slots=True)
class KillAt:
    """SIGKILL before operation number ``number`` on ``folder``, from 0, or so many seconds after it."""

    folder: Path
    number: int
    delay: float = 0.0

    def __call__(self) -> None:
        def kill_now() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def kill(number: int, what: str, path: str) -> None:
            if number != self.number:
                return
            if self.delay == 0:
                kill_now()
            timer = threading.Timer(self.delay, kill_now)
            timer.daemon = True  # the command may end before
            timer.start()

        _watch(self.folder, kill)


@dataclass(frozen=True, slots=True)
class FillBefore:
    """The disk becomes full before operation number ``number`` on ``folder``: a file ``filler`` takes what is free.

    left: bytes that stay free, about.
    """

    folder: Path
    number: int
    filler: Path
    left: int

    def __call__(self) -> None:
        def fill(number: int, what: str, path: str) -> None:
            if number == self.number:
                descriptor = os.open(self.filler, os.O_WRONLY | os.O_CREAT)
                disk = os.fstatvfs(descriptor)
                size = disk.f_bavail * disk.f_frsize - self.left
                if size > 0:
                    os.posix_fallocate(descriptor, 0, size)
                os.close(descriptor)

        _watch(self.folder, fill)


def _watch(folder: Path, on_operation: OnOperation) -> None:
    """Call a function before every operation of this process on the files of a folder. Cannot be taken back."""
    root, count, inside = str(folder.resolve()), 0, False

    def happen(what: str, path: str) -> None:
        nonlocal count, inside
        if inside or not (path == root or path.startswith(root + os.sep)):
            return
        inside = True
        try:
            on_operation(count, what, os.path.relpath(path, root))
        finally:
            inside, count = False, count + 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and (flags or 0) & _WRITING:
                happen("open", _absolute(path))
        elif event in _NAMES:
            descriptor = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            happen(_NAMES[event], _absolute(arguments[0], descriptor))

    sys.addaudithook(audit)
    fsync = os.fsync

    def counted(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        happen("fsync", str(_opened(number)))
        fsync(fd)

    os.fsync = counted


def _absolute(path: Any, descriptor: Any = -1) -> str:
    """A path of an audit event, which may be relative to an open folder; nothing of what is no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    base = Path.cwd()
    if isinstance(descriptor, int) and descriptor >= 0:
        with suppress(OSError):
            base = _opened(descriptor)
    return os.path.normpath(base / os.fsdecode(path))


def _opened(descriptor: int) -> Path:
    """The file or folder that a descriptor stands for."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())
