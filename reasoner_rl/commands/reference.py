"""`reasoner-rl reference`: make a reference of runs, and compare a finished run with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.trainer.reference import (
    follow_run,
    load_reference,
    make_reference,
    verdict,
    write_reference,
)

_MAY_DIFFER = ("run.seed", "run.output_dir", "run.threads", "logging.")


def make(runs: Sequence[Path], out: Path) -> None:
    """Make a reference of finished runs and write it to ``out``.

    Raises ConfigError where the runs' recipes differ in more than seeds and places, or have the same seed twice.
    """
    recipes = [_recipe_of(run) for run in runs]
    seeds = [int(recipe["run"]["seed"]) for recipe in recipes]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"the runs must have different seeds; they are {', '.join(map(str, seeds))}")
    first, *others = [_comparable(recipe) for recipe in recipes]
    for run, other in zip(runs[1:], others, strict=True):
        if other != first:
            different = [key for key in first.keys() | other.keys() if first.get(key) != other.get(key)]
            raise ConfigError(
                f"{run}: differs from {runs[0]} in {', '.join(sorted(different))}, and not by its seed alone"
            )
    write_reference(out, make_reference(runs, out.stem, seeds))
    say(f"reference of {len(runs)} runs: {out} ({out.stat().st_size:,} bytes)")


def check(run: Path, against: str) -> bool:
    """Report where a run left the bands of a reference; returns whether it did."""
    reference = load_reference(against)
    watch = follow_run(run, reference)
    for departure in watch.departed.values():
        say(str(departure))
    say(verdict(watch, reference))
    return bool(watch.departed)


def _recipe_of(run: Path) -> dict[str, Any]:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise DataError(f"{run}: is no folder of a run: it has no recipe.yaml")
    return load_recipe(path).model_dump(mode="json")  # with the defaults of keys that are newer than the run


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Every key by its path, but for those that runs of the same recipe may differ in: the seed, places, records."""
    flat = flat_keys(_without_paths(recipe))
    return {key: value for key, value in flat.items() if not key.startswith(_MAY_DIFFER)}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(below) for key, below in value.items() if key != "path"}
    return [_without_paths(below) for below in value] if isinstance(value, list) else value
