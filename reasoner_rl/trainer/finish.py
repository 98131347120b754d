"""What a run writes at its end: weights, a summary, learning curves."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from reasoner_rl.config.recipes import OnlineConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import DataError
from reasoner_rl.observability.curves import plot_curves
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import write_json
from reasoner_rl.trainer.reward_models import write_description
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.watch import recorded_alarms
from reasoner_rl.training.checkpoint import CheckpointStore
from reasoner_rl.training.disk_space import filled_folder, partial_of, size_of

_FIRST_CURVES_SECONDS = 20.0  # after the start
_CURVES_RATIO = 20  # seconds without drawing, per second of drawing


def finish_run(
    config: TrainConfig, state: DriverState, workers: Workers, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Export the weights, plot the curves, write and return the summary. ``more``: what stands in it besides."""
    output = config.run.output_dir
    if config.checkpoint.export_at_end:
        export_folder(output / "final", partial(_export, config, workers))
        say(f"weights: {output / 'final'}")
    summary = {**summarise_run(config, state), "exported": config.checkpoint.export_at_end, **more}
    if isinstance(config, OnlineConfig):
        alarms = Counter(alarm.trend for alarm in recorded_alarms(config, output / "metrics.jsonl"))
        summary |= {"alarms": alarms, "returns": state.returns}
    write_json(output / "summary.json", summary)
    say(f"summary: {output / 'summary.json'}")
    draw_curves(output)
    return summary


def _export(config: TrainConfig, workers: Workers, folder: Path) -> None:
    workers.export(folder)
    if isinstance(config, RewardModelConfig):
        write_description(config, folder)


def draw_curves(output: Path) -> None:
    """Plot the metrics, if any were logged, and print where; print why not if that fails, without an error."""
    if problem := _draw(output):
        say(f"curves are not drawn: {problem}")
    elif (output / "curves.png").is_file():
        say(f"curves: {output / 'curves.png'}")


def _draw(output: Path) -> str:
    """Plot what was logged, if anything was. Returns what went wrong."""
    try:
        if read_jsonl(output / "metrics.jsonl"):
            plot_curves(output / "metrics.jsonl", output / "curves.png")
    except (DataError, OSError) as error:
        return str(error)
    return ""


class LiveCurves:
    """Redraws the curves during a run, for at most a twentieth of its time."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._next = time.monotonic() + _FIRST_CURVES_SECONDS

    def refresh(self) -> None:
        """Redraw the curves, unless they were drawn a short while ago. Failures are reported at the end of the run."""
        started = time.monotonic()
        if started >= self._next:
            _draw(self._output)
            ended = time.monotonic()
            self._next = ended + _CURVES_RATIO * (ended - started)


def tell_stopped(output: Path, step: int, store: CheckpointStore) -> None:
    """Draw the curves of a run that stops before its end, and print how to resume it and how to export its weights."""
    draw_curves(output)
    say(f"stopped after step {step}; the same command resumes from there")
    if newest := store.latest():
        say(
            f"to have the weights of step {newest[0]} as a Hugging Face checkpoint: reasoner-rl export {output}"
        )


def export_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder that replaces ``final`` only when it is whole.

    Raises DiskFullError if there is no room; nothing half-written stays behind.
    """
    need = size_of(final) if final.is_dir() else None
    with filled_folder(partial_of(final), "the export of the weights", need):
        write(partial_of(final))
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    partial_of(final).rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def summarise_run(config: TrainConfig, state: DriverState) -> dict[str, Any]:
    """Steps, seconds, and accuracy on the first held-out set before training and at the end, if evaluated."""
    summary: dict[str, Any] = {
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "seed": config.run.seed,
        "algorithm": config.algorithm.kind,
        "evaluations": state.evaluations,
    }
    evaluated = sorted(int(step) for step, reports in state.evaluations.items() if reports)
    if evaluated:
        main = next(iter(state.evaluations[str(evaluated[0])]))
        moments = {"before": evaluated[0]}
        if evaluated[-1] == state.step:  # otherwise the final weights were not evaluated
            moments["after"] = state.step
        for moment, step in moments.items():
            report = state.evaluations[str(step)][main]
            summary[f"accuracy_{moment}"] = report["accuracy"]
            if "mean_response_tokens" in report:  # a reward model's is of pairs
                summary[f"response_tokens_{moment}"] = report["mean_response_tokens"]
    return summary
