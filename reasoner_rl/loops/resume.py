"""Going on from a checkpoint: which one, whether it belongs to this run, and what is wrong if it cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reasoner_rl.config.load import dump_recipe
from reasoner_rl.config.recipes import Recipe
from reasoner_rl.errors import ConfigError
from reasoner_rl.loops.start import say
from reasoner_rl.training.checkpoint import CheckpointStore, reading

_RECIPE = "recipe.yaml"
# What a checkpoint brings along, so that another value in the recipe would have no effect, or could not be read.
_FIXED = (
    *("recipe", "run.seed", "data.shuffle", "training.backend.kind"),
    *(f"training.optimizer.{key}" for key in ("lr", "betas", "eps", "weight_decay")),
)


def save_recipe(config: Recipe, folder: Path) -> None:
    """Write the resolved recipe into a checkpoint's folder."""
    (folder / _RECIPE).write_text(dump_recipe(config), encoding="utf-8")


def checkpoint_to_resume(config: Recipe, store: CheckpointStore) -> tuple[int, Path] | None:
    """Step and folder of the checkpoint to go on from; tells which keys have changed since it was made.

    Raises ConfigError if run.resume forbids it, if it is past the end of the run, or if a key has changed whose
    value comes with the checkpoint.
    """
    run, newest = config.run, store.latest()
    if newest is None:
        return None
    step, folder = newest
    if run.resume == "never":
        raise ConfigError(
            f"run.resume is 'never', but {folder} is a checkpoint: choose another run.output_dir, or run.resume=auto"
        )
    if step > run.steps:
        raise ConfigError(
            f"run.steps={run.steps}, but {folder} is of step {step}: choose at least {step} steps, "
            "or another run.output_dir"
        )
    with reading(folder):
        old = _flat(yaml.safe_load((folder / _RECIPE).read_text(encoding="utf-8")))
    new = _flat(yaml.safe_load(dump_recipe(config)))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if fixed := [key for key in changed if key.startswith(_FIXED)]:
        key = fixed[0]
        raise ConfigError(
            f"{key} is {new.get(key)!r}, but {folder} was made with {old.get(key)!r}, and it cannot change "
            "within a run: keep it, or choose another run.output_dir"
        )
    say(f"resuming after step {step} from {folder}")
    for key in changed:
        say(f"  changed since: {key}: {old.get(key)!r} -> {new.get(key)!r}")
    return newest


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as key.path -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
