"""The simulation beside real runs on this machine: constants fitted to three runs, other batch sizes predicted.

Runs are of the quickstart's model with the embedded engine, without dynamic sampling. What is compared is CPU seconds
per step, which other processes on the machine change little: those of the driver's process where it is the only
worker, and of the busiest worker where Ray has started two.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import psutil  # type: ignore[import-untyped]

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.trainer.train import Observers, train
from simulation.costs import Fitted
from simulation.lengths import Lengths, Outcomes, measure
from simulation.run import Workload, simulate

SKIPPED, STEPS = 2, 10  # the first steps warm up
PROMPT_TOKENS = 12  # about as many as the quickstart's prompts have


@dataclass(frozen=True, slots=True)
class Measured:
    """Median CPU seconds of a step."""

    prompts: int
    workers: int
    phases: Mapping[str, float]  # generate, prepare, update, sync; with one worker
    busiest: float  # of all phases, of the worker that computed most


class _CpuTimer(PhaseTimer):
    """Counts the process's own CPU seconds."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self._seconds[phase] += time.process_time() - start


def config_of(quickstart: Path, out: Path, prompts: int, workers: int) -> OnlineConfig:
    """The quickstart's recipe with another batch size."""
    config = load_recipe(
        "quickstart",
        [
            f"run.output_dir={out}",
            f"run.steps={STEPS}",
            f"model.path={quickstart / 'warm_start' / 'final'}",
            f"data.train.path={quickstart / 'data' / 'train.jsonl'}",
            "evaluation={datasets: [], every_steps: null}",
            "algorithm.dynamic_sampling={enabled: false}",
            f"batch.prompts_per_step={prompts}",
            f"batch.prompts_per_update={prompts // 2}",
            "training.optimizer.lr=1e-12",  # so that responses do not become longer from step to step
            "checkpoint.every_steps=1000",
            "logging.progress=false",
            f"cluster={{kind: ray, workers_per_node: {workers}}}" if workers > 1 else "cluster.kind=local",
        ],
    )
    assert isinstance(config, OnlineConfig)
    return config


def measure_run(quickstart: Path, out: Path, prompts: int, workers: int) -> Measured:
    """Train for some steps, and count CPU seconds."""
    steps: list[dict[str, float]] = []
    spent: list[dict[int, float]] = []

    def note(step: int, metrics: Mapping[str, float]) -> None:
        if "time/step" in metrics:
            steps.append(dict(metrics))
            spent.append(_cpu_of_workers())

    config = config_of(quickstart, out, prompts, workers)
    train(config, Observers(on_metrics=note, timer=_CpuTimer()))
    counted = steps[SKIPPED:]
    phases = {
        phase: statistics.median(step.get(f"time/{phase}", 0.0) for step in counted)
        for phase in ("generate", "prepare", "update", "sync")
    }
    if workers == 1:
        return Measured(prompts, 1, phases, sum(phases.values()))
    added = [
        max(after[worker] - before[worker] for worker in after)
        for before, after in zip(spent[SKIPPED - 1 :], spent[SKIPPED:], strict=False)
    ]
    return Measured(prompts, workers, {}, statistics.median(added))


def _cpu_of_workers() -> dict[int, float]:
    """CPU seconds of the actors that this process's Ray has started, by process."""
    found = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::RayWorker"):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        except (psutil.Error, IndexError):
            continue
    return found


def lengths_of(run: Path, config: OnlineConfig) -> Lengths:
    """The lengths that a run has recorded."""
    found = measure([run])
    knots = tuple((share, tokens) for share, tokens in found["knots"])
    limit = config.rollout.sampling.max_response_tokens
    return Lengths("measured", str(run), limit, max(0.0, found["correlation"]), knots)


def simulated(config: OnlineConfig, lengths: Lengths, costs: Fitted, folder: Path) -> dict[str, float]:
    """Mean seconds of a step by phase, and of the whole, with these costs."""
    workload = Workload(lengths, Outcomes(0.0, 0.0), PROMPT_TOKENS)
    figures = simulate(config, workload, costs, STEPS, folder, prompts=workload.prompts(400))[SKIPPED:]
    ranks = config.cluster.ranks
    return {
        "generate": statistics.mean(step.generating * step.seconds for step in figures) * ranks,
        "train": statistics.mean(step.training * step.seconds for step in figures) * ranks,
        "step": statistics.mean(step.seconds for step in figures),
    }


def fit(runs: Sequence[tuple[OnlineConfig, Measured]], lengths: Lengths, folder: Path) -> Fitted:
    """Costs with which the simulation takes the time of measured runs of one worker, by least squares of shares.

    Every constant is what a run takes with that constant alone at 1, which the simulation says.
    """
    names = ("decode_fixed", "decode_row", "forward_token", "update_fixed", "update_token")
    none = dict.fromkeys((*names, "prefill_token", "sync_fixed"), 0.0)
    rows: dict[str, list[dict[str, float]]] = {}
    for name in names:
        unit = Fitted(rows=256, **{**none, name: 1.0})  # type: ignore[arg-type]
        rows[name] = [simulated(config, lengths, unit, folder) for config, _ in runs]

    def solve(parts: Sequence[str], phase: str, simulated_phase: str) -> dict[str, float]:
        matrix = numpy.array([[rows[name][k][simulated_phase] for name in parts] for k in range(len(runs))])
        wanted = numpy.array([run.phases[phase] for _, run in runs])
        found, *_ = numpy.linalg.lstsq(matrix / wanted[:, None], numpy.ones(len(runs)), rcond=None)
        return dict(zip(parts, map(float, found), strict=True))

    constants = {
        **solve(("decode_fixed", "decode_row"), "generate", "generate"),
        **solve(("forward_token",), "prepare", "train"),
        **solve(("update_fixed", "update_token"), "update", "train"),
        "sync_fixed": statistics.mean(run.phases["sync"] for _, run in runs),
        "prefill_token": 0.0,  # in what a token takes
    }
    return Fitted(rows=256, **constants)  # type: ignore[arg-type]


def validate(quickstart: Path, folder: Path) -> dict[str, Any]:
    """Fit to 6, 16 and 32 prompts per step; predict 8 and 24 prompts, and 16 prompts on two workers."""
    fitted_to = []
    for prompts in (6, 16, 32):
        config = config_of(quickstart, folder / f"fit_{prompts}", prompts, 1)
        fitted_to.append((config, measure_run(quickstart, config.run.output_dir, prompts, 1)))
    lengths = lengths_of(folder, fitted_to[0][0])
    costs = fit(fitted_to, lengths, folder / "simulated")
    compared = []
    for prompts, workers in ((8, 1), (24, 1), (16, 2)):
        out = folder / f"run_{prompts}_{workers}"
        run = measure_run(quickstart, out, prompts, workers)
        config = config_of(quickstart, out, prompts, workers)
        predicted = simulated(config, lengths, costs, folder / "simulated")["step"]
        compared.append(
            {
                "prompts": prompts,
                "workers": workers,
                "measured_seconds": run.busiest,
                "predicted_seconds": predicted,
                "ratio": predicted / run.busiest,
            }
        )
        print(compared[-1], flush=True)
    return {
        "fitted_to": [
            {"prompts": run.prompts, "phases": dict(run.phases), "seconds": run.busiest}
            for _, run in fitted_to
        ],
        "constants": {name: getattr(costs, name) for name in Fitted.__dataclass_fields__},
        "compared": compared,
    }
