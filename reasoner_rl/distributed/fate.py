"""Processes that Ray starts end with the driver, however the driver ends.

Ray's own processes on this machine are killed with the driver that started them, except the agents of its raylet,
which then wait for it without end. A small process notices the driver's death and kills them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil  # type: ignore[import-untyped]

# Reads process ids, one per line, until the other side of the pipe is closed, by the driver's death too. Each process
# is looked up when its line comes, so that psutil kills no other process that has got the number since. Times of start
# that the driver has read are no help: psutil's move whenever the machine's clock is set.
_WATCH = """
import sys, psutil
known = []
for line in sys.stdin:
    try:
        known.append(psutil.Process(int(line)))
    except psutil.Error:
        pass
for process in known:
    try:
        process.kill()
    except psutil.Error:
        pass
"""


class SharedFate:
    """Kills the processes given to `include` when this process ends, or `close` is called."""

    def __init__(self) -> None:
        # In a session of its own, so that Ctrl-C, or a signal to the driver's group, does not reach it.
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._known = set[psutil.Process]()  # equal if number and start are

    def include_ray(self) -> None:
        """Take in Ray's raylet on this machine, if this process has started it, and all that it has started."""
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() == "raylet":
                    self.include([child, *child.children(recursive=True)])

    def include(self, processes: Iterable[psutil.Process]) -> None:
        """Take in processes, unless they are known."""
        new = [process for process in processes if process not in self._known]
        self._known.update(new)
        self._tell("".join(f"{process.pid}\n" for process in new))

    def close(self) -> None:
        """Kill those that are still running."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()

    def _tell(self, lines: str) -> None:
        """Pass lines to the watcher. If it was killed, the run needs it no less, but can do without."""
        assert self._watcher.stdin is not None
        with suppress(BrokenPipeError):
            os.write(self._watcher.stdin.fileno(), lines.encode())
