"""Processes that Ray starts end with the driver, however the driver ends.

Ray's own processes on this machine are killed with the driver that started them, but for the agents of its raylet,
which then wait for it without end. A small process notices the driver's death and kills them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil  # type: ignore[import-untyped]

# Reads "pid start" lines until the other side of the pipe is closed, by the driver's death too. psutil compares the
# start, so that no other process is killed that has got the number since.
_WATCH = """
import sys, psutil
known = dict(map(str.split, sys.stdin))
for pid, start in known.items():
    try:
        process = psutil.Process(int(pid))
        if process.create_time() == float(start):
            process.kill()
    except psutil.Error:
        pass
"""


class SharedFate:
    """Kills the processes that it was told of when this process ends, or `close` is called."""

    def __init__(self) -> None:
        # In a session of its own, so that Ctrl-C, or a signal to the driver's group, does not reach it.
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._known = set[int]()

    def include_ray(self) -> None:
        """Take in Ray's raylet on this machine, if this process has started it, and all that it has started."""
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() == "raylet":
                    self.include([child, *child.children(recursive=True)])

    def include(self, processes: Iterable[psutil.Process]) -> None:
        """Take in processes, unless they are known."""
        assert self._watcher.stdin is not None
        for process in processes:
            with suppress(psutil.Error):  # it has ended
                start = process.create_time()
                if process.pid not in self._known:
                    self._known.add(process.pid)
                    self._watcher.stdin.write(f"{process.pid} {start!r}\n")
        self._watcher.stdin.flush()

    def close(self) -> None:
        """Kill those that still live."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()
