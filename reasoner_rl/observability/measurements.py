"""Metrics measured around the stages: of the responses, of time and of memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from reasoner_rl.metrics import Metrics, maximum, mean, mean_of
from reasoner_rl.types import ScoredGroup

GIB = 2**30


def rollout_metrics(groups: Sequence[ScoredGroup]) -> Metrics:
    """Lengths of responses in tokens, and the share that was cut off at the limit.

    ``right`` means full accuracy; every other response whose accuracy is known is ``wrong``. A mean over no response
    is left to `metrics.values` to drop.
    """
    pairs = [pair for group in groups for pair in zip(group.rollouts, group.rewards, strict=True)]
    if not pairs:
        return {}
    lengths = [len(rollout.token_ids) for rollout, _ in pairs]
    judged = [
        (len(rollout.token_ids), reward.accuracy) for rollout, reward in pairs if reward.accuracy is not None
    ]
    return {
        "response/length_mean": mean_of(lengths),
        "response/length_max": maximum(max(lengths)),
        "response/truncated_share": mean_of(rollout.finish_reason == "length" for rollout, _ in pairs),
        "response/right_length_mean": mean_of(length for length, accuracy in judged if accuracy >= 1),
        "response/wrong_length_mean": mean_of(length for length, accuracy in judged if accuracy < 1),
    }


def staleness_metrics(groups: Sequence[ScoredGroup], version: int) -> Metrics:
    """By how many policy versions the first token of each response is older than the policy that is trained."""
    ages = [version - rollout.policy_version for group in groups for rollout in group.rollouts]
    return {"policy/staleness": mean_of(ages), "policy/staleness_max": maximum(max(ages))} if ages else {}


def resident_gib() -> float:
    """Host memory of this process now, in GiB."""
    return float(psutil.Process().memory_info().rss / GIB)


def host_used_share(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Share of this machine's memory that is in use by any process, without caches of files that can be dropped.

    Where this process is in a control group (version 2) with a limit, as in containers and Slurm jobs, the share of the
    limit if that is higher.
    """
    machine = psutil.virtual_memory()
    used = float(1 - machine.available / machine.total)
    with suppress(OSError, LookupError, ValueError):
        name = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        folder = cgroups / name.strip("/")
        folder = folder if (folder / "memory.max").exists() else cgroups
        limit = int((folder / "memory.max").read_text())  # "max" where there is none
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        held = int((folder / "memory.current").read_text()) - int(stat["inactive_file"])
        used = max(used, held / limit)
    return used


def driver_memory_metrics() -> Metrics:
    """Host memory of the driver, and of its machine: see `memory_metrics`."""
    return {
        "memory/driver_gib": maximum(resident_gib()),
        "memory/host_used_share": maximum(host_used_share()),
    }


def device_used_gib() -> float:
    """Memory of this process's GPU that is in use by any process, by the driver's count, in GiB."""
    free, whole = torch.cuda.mem_get_info()
    return (whole - free) / GIB


def memory_metrics() -> Metrics:
    """Memory in GiB: host resident now and at its peak, device at the peak of torch's allocator, and in use now.

    Only this process is counted, except in ``memory/device_used_gib``, which is the driver's figure, and
    ``memory/host_used_share``: see `host_used_share`. When ranks are merged, the largest is kept.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024
    measured = {
        "memory/host_gib": maximum(resident_gib()),
        "memory/host_peak_gib": maximum(peak_bytes / GIB),
        "memory/host_used_share": maximum(host_used_share()),
    }
    if torch.cuda.is_available():
        measured["memory/device_gib"] = maximum(torch.cuda.max_memory_allocated() / GIB)
        measured["memory/device_used_gib"] = maximum(device_used_gib())
    return measured


def wait_for_device() -> None:
    """Wait until the GPU has done what this process's current stream holds, so that a clock read now counts it.

    Kernels are only queued when a call returns. Copies on other streams that nothing waits for yet are not waited for:
    they are meant to run beside the next phase. Does nothing where this process has not used a GPU.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


def named_range(name: str) -> AbstractContextManager[object]:
    """Give what follows a name in traces of run.profile. Without a trace it costs next to nothing."""
    tracing: bool = torch.autograd.profiler._is_profiler_enabled
    return torch.profiler.record_function(name) if tracing else nullcontext()


class PhaseTimer:
    """Adds up seconds by phase: ``with timer("generate"): ...``, any number of times.

    The device's work of a phase counts: see `wait_for_device`.

    clock: what time it is, in seconds; the wall clock's if unset.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.perf_counter
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        wait_for_device()
        start = self._clock()
        try:
            with named_range(phase):
                yield
        finally:
            wait_for_device()
            self._seconds[phase] += self._clock() - start

    def metrics(self, tokens: Mapping[str, int] | None = None) -> Metrics:
        """Return ``time/<phase>`` in seconds and, from ``tokens``, ``speed/<phase>_tokens_per_second``.

        Merged over ranks, a time is that of the slowest rank; a speed is all tokens over all ranks' seconds.
        """
        measured = {f"time/{phase}": maximum(seconds) for phase, seconds in self._seconds.items()}
        for phase, count in (tokens or {}).items():
            measured[f"speed/{phase}_tokens_per_second"] = mean(count, self._seconds.get(phase, 0.0))
        return measured

    def reset(self) -> None:
        """Start again from zero, for the next step."""
        self._seconds.clear()
