"""Peaks of memory by phase, to compare a plan with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from reasoner_rl.errors import UserError
from reasoner_rl.observability.measurements import GIB, PhaseTimer, device_used_gib, resident_gib

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PhasePeaks(PhaseTimer):
    """A `PhaseTimer` that also notes the largest memory of every phase.

    ``host_gib``: resident memory of this process at its peak, as the Linux kernel counts it, so that nothing between
    two samples is missed. ``device_gib``: what torch's allocator held at its peak; ``device_used_gib``: the driver's
    figure of all processes when the phase ended. Phases may be nested: a peak counts for all that are open.
    ``baseline_gib``: resident memory when this was made.

    Raises UserError where the kernel does not report peaks.
    """

    def __init__(self) -> None:
        super().__init__()
        if not _RESET.exists():
            raise UserError(f"peaks of memory by phase need Linux ({_RESET} is not there)")
        self.baseline_gib = resident_gib()
        self.host_gib: dict[str, float] = {}
        self.device_gib: dict[str, float] = {}
        self.device_used_gib: dict[str, float] = {}
        self._open = ["start"]  # the open phases, the outermost first
        self._forget()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure the block as one phase."""
        self.note()
        self._open.append(phase)
        try:
            with super().__call__(phase):
                yield
        finally:
            self.note()
            self._open.pop()

    def note(self) -> None:
        """Credit the peak since the last call to the open phases."""
        found = [(self.host_gib, peak_resident_gib())]
        if torch.cuda.is_available():
            found += [
                (self.device_gib, torch.cuda.max_memory_allocated() / GIB),
                (self.device_used_gib, device_used_gib()),
            ]
        for peaks, gib in found:
            for phase in self._open:
                peaks[phase] = max(peaks.get(phase, 0.0), gib)
        self._forget()

    def reset(self) -> None:
        """Start seconds again from zero; peaks are of the whole run."""
        if self._open == ["start"]:  # the first step begins
            self.note()
            self._open = ["between"]
        super().reset()

    def _forget(self) -> None:
        _RESET.write_text("5")  # of this process's peak: man 5 proc
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def peak_resident_gib() -> float:
    """Largest resident memory of this process since the start, or since it was reset."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB
