"""Resuming from a checkpoint: which one, whether it belongs to this run, and what is wrong if it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from reasoner_rl.config.load import dump_recipe
from reasoner_rl.config.recipes import Recipe, TrainConfig
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutFormat, RolloutMode, missing_records
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.prompts.fingerprint import Fingerprint, difference
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.training.checkpoint import CheckpointStore, reading, verify
from reasoner_rl.training.checkpoint_size import checkpoint_bytes
from reasoner_rl.training.disk_space import check_room
from reasoner_rl.training.manifest import has_manifest

TRAINING_DATA, MIXED_IN_DATA = "data.train", "algorithm.ptx.data.train"
_RECIPE = "recipe.yaml"
# What a checkpoint brings along, so that another value in the recipe would have no effect, or could not be read.
_FIXED = (
    *("recipe", "run.seed", "data.shuffle"),
    *(
        f"{model}.optimizer.{key}"
        for model in ("training", "critic")
        for key in ("lr", "betas", "eps", "weight_decay")
    ),
)
# Algorithms with models and a state of their own, which a run of another algorithm has not saved.
_OWN_STATE = {"ppo", "custom"}


def save_recipe(config: Recipe, folder: Path) -> None:
    """Write the resolved recipe into a checkpoint's folder."""
    (folder / _RECIPE).write_text(dump_recipe(config), encoding="utf-8")


def checkpoint_to_resume(
    config: Recipe, store: CheckpointStore, *, restarted: bool = False
) -> tuple[int, Path] | None:
    """Step and folder of the checkpoint to resume from; prints which keys have changed since it was made.

    restarted: within the same command, which resumes from its own checkpoints whatever run.resume says.
    Removes what a process that was killed while writing has left. Raises ConfigError if run.resume forbids it, if it
    is past the end of the run, or if a key has changed whose value comes with the checkpoint; UserError if a file is
    damaged.
    """
    store.remove_partial()
    run, newest = config.run, store.latest()
    if newest is None:
        _tell_what_is_replaced(config.run.output_dir)
        return None
    step, folder = newest
    if run.resume == "never" and not restarted:
        raise ConfigError(
            f"run.resume is 'never', but {folder} is a checkpoint: choose another run.output_dir, or run.resume=auto"
        )
    verify(folder)
    if step > run.steps:
        raise ConfigError(
            f"run.steps={run.steps}, but {folder} is of step {step}: choose at least {step} steps, "
            "or another run.output_dir"
        )
    with reading(folder):
        old = _read_recipe(folder)
    new = flat_keys(yaml.safe_load(dump_recipe(config)))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    kinds = {old.get("algorithm.kind"), new.get("algorithm.kind")}
    unchangeable = (*_FIXED, "algorithm.kind") if kinds & _OWN_STATE else _FIXED
    if fixed := [key for key in changed if key.startswith(unchangeable)]:
        key = fixed[0]
        raise ConfigError(
            f"{key} is {new.get(key)!r}, but {folder} was made with {old.get(key)!r}, and it cannot change "
            "within a run: keep it, or choose another run.output_dir"
        )
    store.tidy()
    say(f"resuming after step {step} from {folder}")
    if not has_manifest(folder):
        say("  it has no manifest of hashes, so damage to its files would not be noticed")
    for line in _told(changed, old, new):
        say(f"  changed since: {line}")
    return newest


def _told(changed: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """One line per changed key; keys that only the old or the new kind of a section has are counted in the kind's."""
    own = {
        kind: [
            key
            for key in changed
            if key.startswith(kind.removesuffix("kind")) and (key in old) != (key in new)
        ]
        for kind in changed
        if kind.endswith(".kind") and kind in old and kind in new
    }
    counted = {key for keys in own.values() for key in keys}
    for key in changed:
        if key not in counted:
            more = f", and {len(own[key])} keys that only one of these kinds has" if own.get(key) else ""
            yield f"{key}: {old.get(key)!r} -> {new.get(key)!r}{more}"


def _read_recipe(folder: Path) -> dict[str, Any]:
    tree = yaml.safe_load((folder / _RECIPE).read_text(encoding="utf-8"))
    if not isinstance(tree, Mapping):
        raise ValueError(f"{_RECIPE} holds no keys")
    return flat_keys(tree)


def _tell_what_is_replaced(output: Path) -> None:
    """Without a checkpoint a run starts anew: it must not replace the results of a finished run, nor others unsaid."""
    summary, steps = output / "summary.json", 0
    with suppress(OSError, ValueError, LookupError, TypeError):
        steps = int(json.loads(summary.read_text(encoding="utf-8"))["steps"])
    if steps > 0:
        raise ConfigError(
            f"{summary} is of a run that finished after {steps} steps, and its checkpoints are gone: a new run would "
            "replace its results. Choose another run.output_dir, or delete summary.json to start anew there"
        )
    with suppress(DataError):
        steps = max((row["step"] for row in read_jsonl(output / "metrics.jsonl")), default=0)
    if steps > 0:
        say(f"{output} has no checkpoint: a new run begins, and replaces the records of {steps} steps there")


def check_data(state: DriverState, found: Mapping[str, Fingerprint], newest: tuple[int, Path] | None) -> None:
    """Compare the data with those of the checkpoint ``newest``, if there is one, and note them in ``state``.

    Raises ConfigError if the training data have changed; changed held-out problems are only reported.
    """
    for name, new in found.items():
        old = state.data.get(name)
        how = None if old is None else difference(old, new)
        if how and newest and name in (TRAINING_DATA, MIXED_IN_DATA):
            raise ConfigError(
                f"{name}: {how}, compared with what {newest[1]} was made with, and training data cannot change "
                "within a run (prompts as the model reads them, ground truths, and what reward functions are told): "
                "bring them back, or choose another run.output_dir"
            )
        if how:
            say(f"  changed since: {name}: {how}")
    state.data = {name: dict(new) for name, new in found.items()}


def check_records(output: Path, step: int, rollouts: RolloutMode, form: RolloutFormat) -> None:
    """Tell which records of the run's newest step are missing, such as files that were deleted."""
    for problem in missing_records(output, step, rollouts, form):
        say(f"  {problem}")


def expect_checkpoints(config: TrainConfig, store: CheckpointStore, step: int, trained_models: int) -> None:
    """Raise DiskFullError at the start if there is no room for the run's next checkpoint.

    trained_models: how many models it will hold, each taken to be as large as the policy.
    """
    policy = checkpoint_bytes(config.model)
    store.expected_bytes = None if policy is None else trained_models * policy
    if step < config.run.steps:
        check_room("the next checkpoint", store.folder, store.needed_bytes())
