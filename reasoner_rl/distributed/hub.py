"""Checkpoints that a recipe names on the Hugging Face hub are downloaded once per machine, before any worker loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from reasoner_rl.config.judging import JudgingConfig, Launched
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.errors import ConfigError

# What tokenizers and configurations are read from, and weights. Other formats are copies of them (.pth, GGUF),
# except PyTorch's own, the only one of models published before safetensors.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
_WEIGHTS = ("*.safetensors",)
_OLD_WEIGHTS = ("pytorch_model*.bin",)
_COPIES = ("original/*", "consolidated*")  # the weights once more, as their makers keep them


def first_on_each_machine(machines: Sequence[str]) -> list[int]:
    """The lowest rank on every machine, in order. machines: by rank, the machine's name."""
    return [rank for rank, machine in enumerate(machines) if machine not in machines[:rank]]


def is_hub_name(path: str) -> bool:
    """Whether ``model.path`` or ``model.tokenizer`` is a name on the hub, that is, no folder of this machine."""
    return not Path(path).is_dir()


def hub_names(model: ModelConfig) -> list[str]:
    """The names on the hub among ``model.path`` and ``model.tokenizer``."""
    return [path for path in dict.fromkeys((model.path, model.tokenizer)) if path and is_hub_name(path)]


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that a model and its tokenizer are read from, in order."""
    patterns = _SMALL_FILES + _WEIGHTS + _OLD_WEIGHTS
    return sorted({file for pattern in patterns for file in folder.glob(pattern)})


def models_of(config: Launched) -> dict[str, ModelConfig]:
    """The checkpoints that a recipe names, by section: the policy's, and those of other models of their own."""
    if isinstance(config, JudgingConfig):
        return {"reward_model": config.model}
    others: dict[str, ModelConfig | None] = {}
    if isinstance(config, OnlineConfig):
        others = {
            "critic": config.critic_model,
            "teacher": config.teacher_model,
            "reward_model": config.reward_model_checkpoint,
        }
    if isinstance(config, PreferenceConfig):
        others = {"reference": config.reference_model}
    return {"model": config.model} | {name: model for name, model in others.items() if model is not None}


def with_cached_models(config: Launched) -> Launched:
    """The same recipe with folders of this machine's cache in place of names on the hub: see `from_cache`."""
    cached = {section: from_cache(model, section) for section, model in models_of(config).items()}
    if isinstance(config, JudgingConfig):
        return replace(config, model=cached["reward_model"])
    changes: dict[str, Any] = {"model": cached["model"]}
    if isinstance(config, OnlineConfig) and config.critic is not None and "critic" in cached:
        changes["critic"] = config.critic.model_copy(update={"path": cached["critic"].path})
    if isinstance(config, OnlineConfig) and config.teacher is not None:
        changes["teacher"] = config.teacher.model_copy(update={"path": cached["teacher"].path})
    if isinstance(config, OnlineConfig) and config.reward_model is not None:
        changes["reward_model"] = config.reward_model.model_copy(update={"path": cached["reward_model"].path})
    if isinstance(config, PreferenceConfig) and config.reference is not None:
        changes["reference"] = config.reference.model_copy(update={"path": cached["reference"].path})
    return config.model_copy(update=changes)


def download(model: ModelConfig, section: str = "model") -> None:
    """Fetch what a section of the recipe names on the hub into this machine's cache (HF_HOME).

    Raises ConfigError if that fails and the cache does not have it.
    """
    _snapshots(model, section, cached=False)


def from_cache(model: ModelConfig, section: str = "model") -> ModelConfig:
    """The same with folders of this machine's cache in place of names on the hub, which is then not asked again.

    Raises ConfigError if the cache does not have them; `download` must have run on this machine.
    """
    return model.model_copy(update=_snapshots(model, section, cached=True))


def _snapshots(model: ModelConfig, section: str, *, cached: bool) -> dict[str, str]:
    found = {}
    for key, name in (("path", model.path), ("tokenizer", model.tokenizer)):
        if not name or not is_hub_name(name):
            continue
        try:
            found[key] = _snapshot(name, _SMALL_FILES + (_WEIGHTS if key == "path" else ()), cached)
            if key == "path" and not _holds(found[key], _WEIGHTS):
                found[key] = _snapshot(name, _SMALL_FILES + _OLD_WEIGHTS, cached)
        except Exception as error:  # of the network, the hub or the disk
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{section}.{key}={name!r}: is no folder here, and it cannot be fetched from the hub: "
                f"{type(error).__name__}: {reason}"
            ) from error
        if key == "path" and not _holds(found[key], _WEIGHTS + _OLD_WEIGHTS):
            raise ConfigError(
                f"{section}.path={name!r}: the hub has no weights of it that can be read, which are files named "
                f"{' or '.join(_WEIGHTS + _OLD_WEIGHTS)}"
            )
    return found


def _snapshot(name: str, patterns: Sequence[str], cached: bool) -> str:
    return snapshot_download(
        name, allow_patterns=list(patterns), ignore_patterns=list(_COPIES), local_files_only=cached
    )


def _holds(folder: str, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in Path(folder).glob(pattern))
