"""`reasoner-rl export`: the weights in a training checkpoint as a Hugging Face folder.

Recipes may name such a checkpoint, or a run, as a model: `with_exported_models`.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel
from transformers.utils import logging as transformers_logging

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.building import reward_head
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json
from reasoner_rl.tokenizer import is_training_folder, load_tokenizer
from reasoner_rl.trainer.finish import export_folder
from reasoner_rl.trainer.folder import exclusive_folder
from reasoner_rl.trainer.reward_models import write_description
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.training.backend import Head
from reasoner_rl.training.checkpoint import CheckpointStore, reading, verify
from reasoner_rl.training.export import save_adapters, save_weights
from reasoner_rl.training.manifest import MANIFEST, has_manifest
from reasoner_rl.training.saved import saved_adapters, saved_weights

_REMEDY = "Another checkpoint of the run may be whole: name it"
RECORD = "export.json"  # in an exported folder: an `ExportRecord`
Contents = Literal["weights", "weights with adapters merged", "adapters"]
Recipe = TypeVar("Recipe", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """The checkpoint that an exported folder was made from, and what it contains."""

    checkpoint: str
    step: int
    manifest: str | None  # SHA-256 of the checkpoint's manifest, which has the hashes of its files
    contents: Contents


def export(source: Path, out: Path | None = None, *, adapters: bool = False) -> Path:
    """Write the weights of a checkpoint, and tokenizer and generation settings, as a Hugging Face folder.

    source: a training checkpoint, or a run, of which the newest is taken. out: ``RUN/exported/STEP`` unless given. A
    folder that holds the same export already is left as it is. Returns the folder. Raises ConfigError if there is no
    checkpoint, if ``out`` holds something else, or if there are no adapters; UserError if the checkpoint is damaged.
    """
    checkpoint = checkpoint_in(source).absolute()
    verify(checkpoint, _REMEDY)
    with reading(checkpoint, _REMEDY):
        step = DriverState.load(checkpoint).step
    config = _recipe_of(checkpoint)
    lora = config.model.lora
    if adapters and (lora is None or isinstance(config, RewardModelConfig)):
        raise ConfigError(
            f"--adapters: {checkpoint} has no adapters, because model.lora is not set in its recipe.yaml"
            if lora is None
            else f"--adapters: {checkpoint} is of a reward model, whose head is trained beside the adapters and would "
            "be missing: export it without --adapters"
        )
    contents: Contents = "adapters" if adapters else "weights with adapters merged" if lora else "weights"
    record = ExportRecord(str(checkpoint), step, _fingerprint(checkpoint), contents)
    name = f"{checkpoint.name}_adapters" if adapters else checkpoint.name
    folder = out or checkpoint.parent.parent / "exported" / name
    # Commands that run side by side may name the same checkpoint as their model.
    with exclusive_folder(folder.parent, "the folder of exports") if out is None else nullcontext():
        if _holds(folder, record):
            say(f"{folder} holds the {contents} of step {step} already")
            return folder
        export_folder(folder, partial(_write, config, checkpoint, record))
    say(f"exported the {contents} of step {step} in {config.model.dtype}: {folder}")
    if adapters:
        say(f"  to be used with the weights of {config.model.path}")
    return folder


def checkpoint_in(source: Path) -> Path:
    """The training checkpoint that a path names: itself, or the newest of a run or of its folder of checkpoints.

    Raises ConfigError if there is none.
    """
    if (source / "driver.json").is_file():
        return source
    for folder in (source / "checkpoints", source):
        if (newest := CheckpointStore(folder, 1).latest()) is not None:
            return newest[1]
    what = (
        "there is no such folder"
        if not source.is_dir()
        else "it holds no training checkpoint (checkpoints/step_N)"
    )
    final = (
        f"; the weights that the run has exported are in {source / 'final'}"
        if (source / "final").is_dir()
        else ""
    )
    raise ConfigError(f"{source}: {what}{final}. Name a run's output_dir, or one of its checkpoints")


def with_exported_models(config: Recipe) -> Recipe:
    """The recipe with a Hugging Face folder in place of each run or training checkpoint that it names as a model.

    A run's ``final`` is taken where it is of the newest step; otherwise the checkpoint is exported, or the folder that
    holds the same export already is taken. Raises as `export` does.
    """
    changes = {}
    for name in ("model", "critic", "teacher", "reference", "reward_model"):
        section = getattr(config, name, None)
        path = getattr(section, "path", None)
        if isinstance(section, BaseModel) and isinstance(path, str) and is_training_folder(Path(path)):
            folder = final_weights(Path(path)) or export(Path(path))
            say(f"{name}.path={path}: its weights are read from {folder}")
            changes[name] = section.model_copy(update={"path": str(folder)})
    return config.model_copy(update=changes) if changes else config


def final_weights(run: Path) -> Path | None:
    """The folder ``final`` of a run, or None if there is none or the run has been trained further since."""
    newest = CheckpointStore(run / "checkpoints", 1).latest()
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        ended, exported = int(summary["steps"]), bool(summary.get("exported", True))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    final = run / "final"
    if not final.is_dir() or (not exported and newest is not None):
        return None  # of an earlier end: the newest did not write it
    return final if newest is None or newest[0] <= ended else None


def _recipe_of(checkpoint: Path) -> TrainConfig:
    config = load_recipe(str(checkpoint / "recipe.yaml"), [])
    assert isinstance(config, OnlineConfig | PreferenceConfig | SftConfig | RewardModelConfig)
    return config


def _fingerprint(checkpoint: Path) -> str | None:
    if not has_manifest(checkpoint):
        say(f"{checkpoint} has no manifest of hashes, so damage to its files would not be noticed")
        return None
    return hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest()


def _holds(folder: Path, record: ExportRecord) -> bool:
    """Whether a folder holds this export. Raises ConfigError if it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    same = isinstance(found, dict) and record.manifest is not None
    if same and all(found.get(key) == asdict(record)[key] for key in ("manifest", "contents")):
        return True
    raise ConfigError(
        f"{folder} exists, and is no export of {record.checkpoint} ({record.contents}): choose another --out, or "
        "delete it"
    )


def _write(config: TrainConfig, checkpoint: Path, record: ExportRecord, folder: Path) -> None:
    transformers_logging.disable_progress_bar()  # its bars take a second, between lines that matter
    tokenizer = load_tokenizer(config.model)
    is_reward_model = isinstance(config, RewardModelConfig)
    saved = checkpoint / ("reward_model" if is_reward_model else "policy")
    with reading(checkpoint, _REMEDY):
        if record.contents == "adapters":
            save_adapters(folder, config.model, saved_adapters(saved, config.model))
        else:
            head: Head = (
                reward_head(config.algorithm.kind) if isinstance(config, RewardModelConfig) else "policy"
            )
            weights = saved_weights(saved, config.model, head)
            save_weights(folder, config.model, weights, head)
    tokenizer.save_pretrained(folder)
    if isinstance(config, RewardModelConfig):
        write_description(config, folder)
    write_json(folder / RECORD, asdict(record))
