"""What a phase change costs: seconds, bytes moved, memory before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from reasoner_rl.metrics import Metrics, maximum, mean, merge
from reasoner_rl.observability.measurements import GIB, PhaseTimer, device_used_gib, resident_gib


class SwitchMeter:
    """Collects the measurements of phase changes until they are taken.

    A change named ``sync`` with a part named ``load`` gives ``time/sync``, ``time/sync_load`` and
    ``memory/sync_{host,device,device_used}_{before,after}_gib``; bytes counted in it give ``sync/gib`` and
    ``speed/sync_gib_per_second``. ``device`` is what torch's allocator counts, which includes what vLLM has unmapped
    while it sleeps; ``device_used`` is the driver's figure, of all processes on the device.
    """

    def __init__(self) -> None:
        self._timer = PhaseTimer()
        self._metrics: Metrics = {}
        self._bytes = 0

    @contextmanager
    def change(self, name: str) -> Iterator[None]:
        """Measure the block as one phase change."""
        before = _memory_gib()
        with self._timer(name):
            yield
        for place, gib in before.items():
            self._metrics[f"memory/{name}_{place}_before_gib"] = maximum(gib)
        for place, gib in _memory_gib().items():
            self._metrics[f"memory/{name}_{place}_after_gib"] = maximum(gib)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Measure the block as a part of a change."""
        return self._timer(name)

    def counted(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass tensors on, counting their bytes."""
        for name, tensor in tensors:
            self._bytes += tensor.numel() * tensor.element_size()
            yield name, tensor

    def take(self) -> Metrics:
        """Return everything measured since the last call."""
        timed = self._timer.metrics()
        moved = self._bytes / GIB
        seconds = timed["time/sync_load"].total if "time/sync_load" in timed else 0.0
        taken = merge(
            [
                self._metrics,
                timed,
                {"sync/gib": maximum(moved), "speed/sync_gib_per_second": mean(moved, seconds)},
            ]
        )
        self._timer.reset()
        self._metrics, self._bytes = {}, 0
        return taken


def _memory_gib() -> dict[str, float]:
    measured = {"host": resident_gib()}
    if torch.cuda.is_available():
        measured |= {"device": torch.cuda.memory_reserved() / GIB, "device_used": device_used_gib()}
    return measured
