"""One real step of a recipe in a folder of its own, and what it took: memory by phase, seconds by phase."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.commands.own_process import in_own_process
from reasoner_rl.errors import DataError
from reasoner_rl.plan.setup import Planned

# glibc keeps freed blocks below a threshold that grows to 32 MiB, so that resident memory is that of the past. With a
# fixed threshold every larger tensor is a mapping of its own, which goes back when it is freed (man 3 mallopt).
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
_UNNEEDED = ("step", "start", "between", "evaluate", "total")


@dataclass(frozen=True, slots=True)
class Probe:
    """What one step took. Phases are generate, reward, prepare, update and sync."""

    baseline_gib: float  # resident memory with all libraries imported, before there was a model
    host_gib: dict[str, float]  # peaks of resident memory by phase, of this process
    device_gib: dict[str, float]  # peaks of torch's allocator by phase, empty on a CPU
    device_used_gib: dict[str, float]  # of the driver, at the ends of phases
    seconds: dict[str, float]
    metrics: dict[str, float]  # all that the step logged

    def above_baseline_gib(self, phase: str) -> float:
        """Peak of resident memory in a phase less the baseline."""
        return self.host_gib[phase] - self.baseline_gib


def probe(config: Planned) -> Probe:
    """Make the recipe's first step in a process and a temporary folder of its own, without evaluation or checkpoint.

    On a CPU freed memory is given back at once there (``MALLOC_MMAP_THRESHOLD_``), so that peaks are of what was held.
    Raises what training raises.
    """
    with tempfile.TemporaryDirectory(prefix="reasoner_rl_probe_") as folder, _environment(_GIVE_BACK):
        return in_own_process("the probe", _measure, first_step(config, Path(folder)))


def first_step(config: Planned, folder: Path) -> Planned:
    """The recipe cut down to its first step."""
    run = config.run.model_copy(update={"output_dir": folder, "steps": 1})
    evaluation = config.evaluation.model_copy(
        update={"at_start": False, "at_end": False, "every_steps": None}
    )
    return config.model_copy(update={"run": run, "evaluation": evaluation})


def _measure(config: Planned) -> Probe:
    import transformers.models.auto.modeling_auto  # noqa: F401

    from reasoner_rl.distributed.building import import_backend
    from reasoner_rl.observability.peaks import PhasePeaks
    from reasoner_rl.trainer.train import Observers, train

    import_backend(config.training)
    peaks = PhasePeaks()
    train(config, Observers(timer=peaks))
    return Probe(
        peaks.baseline_gib,
        peaks.host_gib,
        peaks.device_gib,
        peaks.device_used_gib,
        *_logged(config.run.output_dir / "metrics.jsonl"),
    )


def _logged(file: Path) -> tuple[dict[str, float], dict[str, float]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise DataError(f"{file}: the probe's step logged nothing")
    metrics = {name: value for row in rows for name, value in row.items() if isinstance(value, int | float)}
    seconds = {name[5:]: value for name, value in metrics.items() if name.startswith("time/")}
    return {name: value for name, value in seconds.items() if name not in _UNNEEDED}, metrics


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables that the user has not, for processes started in the block."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
