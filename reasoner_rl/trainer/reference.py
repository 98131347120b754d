"""References on disk, and following a run along one: `reasoner-rl train RECIPE --compare-to NAME_OR_FILE`.

A reference is a JSON file of a few kB: which recipe, when and on what it was made, and for each metric the values of
every seed. Those of `reasoner_rl/references` come with the package.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from reasoner_rl.errors import ConfigError, DataError, did_you_mean
from reasoner_rl.evaluation.reference import FEWEST_SEEDS, Curves, Watch, curves_of
from reasoner_rl.observability.curves import read_history
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import atomic_writer
from reasoner_rl.observability.versions import versions

REFERENCES = Path(str(importlib.resources.files("reasoner_rl"))) / "references"
# What learning shows in; a run has those that its algorithm measures.
METRICS = (
    *("reward/accuracy", "reward/score", "response/length_mean", "response/truncated_share"),
    *("policy/entropy", "policy/clip_fraction_high", "train/grad_norm"),
    *("sft/loss", "preference/loss", "rewards/accuracies", "reward_model/loss"),
)
DIGITS = 4  # significant, of a value


class MetricCurves(BaseModel):
    """One metric: ``values`` is [seeds][steps]."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    steps: list[int]
    values: list[list[float]]

    @model_validator(mode="after")
    def _fits(self) -> MetricCurves:
        if len(self.values) < FEWEST_SEEDS or any(len(seed) != len(self.steps) for seed in self.values):
            raise ValueError(f"values must hold at least {FEWEST_SEEDS} seeds, each with one value per step")
        return self


class Reference(BaseModel):
    """Runs of one recipe with several seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int = 1
    recipe: str  # its name, that of the file when it was made
    seeds: list[int]
    made: str  # date
    versions: dict[str, str]
    metrics: dict[str, MetricCurves]

    @property
    def curves(self) -> dict[str, Curves]:
        """By metric."""
        return {
            name: Curves(tuple(metric.steps), tuple(map(tuple, metric.values)))
            for name, metric in self.metrics.items()
        }


def shipped_references() -> dict[str, Path]:
    """The references that come with the package, by name."""
    return {path.stem: path for path in sorted(REFERENCES.glob("*.json"))}


def load_reference(source: str) -> Reference:
    """Read a reference by its name, or from a JSON file. Raises ConfigError or DataError saying what is wrong."""
    shipped = shipped_references()
    path = shipped.get(source, Path(source).expanduser())
    if not path.is_file():
        known = ", ".join(shipped) or "none"
        raise ConfigError(
            f"the reference {source}: no such file, and the shipped references are {known}."
            f"{did_you_mean(source, shipped)} `reasoner-rl reference make RUN RUN RUN --out FILE` makes one"
        )
    try:
        return Reference.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: is no reference: {place}: {first['msg']}") from None


def make_reference(runs: Sequence[Path], recipe: str, seeds: Sequence[int]) -> Reference:
    """Make a reference of finished runs. Raises DataError naming the folder of a run that has no metrics."""
    found = [_metrics_of(run) for run in runs]
    try:
        curves = curves_of(found)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    metrics = {
        name: MetricCurves(
            steps=list(each.steps), values=[[float(f"{v:.{DIGITS}g}") for v in seed] for seed in each.values]
        )
        for name, each in curves.items()
    }
    return Reference(
        recipe=recipe,
        seeds=list(seeds),
        made=datetime.now(UTC).date().isoformat(),
        versions=versions(),
        metrics=metrics,
    )


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference as JSON, on one line: its curves are long lists."""
    with atomic_writer(path) as file:
        file.write(reference.model_dump_json() + "\n")


def _metrics_of(run: Path) -> dict[str, dict[int, float]]:
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise DataError(f"{run}: is no folder of a run: it has no metrics.jsonl")
    history = read_history(file)
    wanted = [
        name
        for name in history
        if name in METRICS or (name.startswith("eval/") and name.endswith("/accuracy"))
    ]
    return {name: dict(zip(history[name].steps, history[name].numbers, strict=True)) for name in wanted}


def follow_run(run: Path, reference: Reference, last_step: int | None = None) -> Watch:
    """Follow a run that was made, up to a step, along a reference."""
    watch = Watch(reference.curves)
    by_step: dict[int, dict[str, float]] = {}
    for metric, points in _metrics_of(run).items():
        for step, value in points.items():
            by_step.setdefault(step, {})[metric] = value
    for step in sorted(by_step):
        if last_step is None or step <= last_step:
            watch.see(step, by_step[step])
    return watch


class ReferenceSink:
    """Follows a run along a reference while it writes its metrics, and reports where one leaves its band.

    Args:
        folder: the run's output_dir.
        resume_step: departures up to this step were reported before the run resumed; 0 in a new run.
    """

    name = "reference"  # in the summary

    def __init__(self, reference: Reference, folder: Path, resume_step: int) -> None:
        self._reference = reference
        self._watch = follow_run(folder, reference, resume_step) if resume_step else Watch(reference.curves)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Compare the metrics of a step."""
        for departure in self._watch.see(step, values):
            say(str(departure))

    def close(self) -> None:
        """Report the verdict."""
        say(verdict(self._watch, self._reference))

    def summary(self) -> dict[str, Any]:
        """For summary.json: how many points were compared, and by metric where it left its band."""
        return {
            "recipe": self._reference.recipe,
            "points": sum(self._watch.compared.values()),
            "left": {name: asdict(departure) for name, departure in self._watch.departed.items()},
        }


def verdict(watch: Watch, reference: Reference) -> str:
    """The result of a comparison, in a sentence."""
    points = sum(watch.compared.values())
    if not points:
        return f"nothing to compare with the reference of {reference.recipe}: no metric and step in common"
    what = f"{len(watch.compared)} metrics at {points} points, with {len(reference.seeds)} seeds of {reference.recipe}"
    if not watch.departed:
        return f"compared with a reference, {what}: all stayed within their bands"
    return f"compared with a reference, {what}: {', '.join(watch.departed)} left the band"
