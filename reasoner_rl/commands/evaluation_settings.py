"""The settings that the result file pins: hashes of weights, data, prompts and verifier, versions, engine, sampling."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reasoner_rl.commands.hashes import file_hash, hash_of_files
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.data import DatasetConfig, PromptConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.distributed.hub import checkpoint_files, download, from_cache, is_hub_name
from reasoner_rl.errors import ConfigError
from reasoner_rl.evaluation.result import (
    DataRecord,
    Machine,
    ModelRecord,
    PromptRecord,
    Settings,
    TokenizerRecord,
    VerifierFunctionRecord,
    VerifierRecord,
)
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.versions import installed_version, versions
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.templates import TEMPLATES
from reasoner_rl.trainer.loading import HeldOut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = (".safetensors", ".bin")
_CONFIGS = ("config.json", "generation_config.json", "adapter_config.json")
_TOKENIZER_FILES = (
    *("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template"),
    *("spiece", "sentencepiece"),
)
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
_OF_THE_MACHINE = ("platform", "cpu_count")
_OF_VERIFIERS = ("math-verify", "latex2sympy2_extended", "sympy", "mpmath")


def settings_of(
    config: EvalConfig, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[HeldOut]
) -> Settings:
    """The settings of an evaluation by a recipe. Models that the recipe names on the hub are fetched for it."""
    folder, tokenizer_folder = _folders(config.model)
    prompts = config.data.prompts
    return Settings(
        model=_model(config, folder),
        tokenizer=_tokenizer(config.model, tokenizer, tokenizer_folder),
        prompts=_prompts(prompts, tokenizer),
        sampling=config.rollout.sampling.model_dump(mode="json"),
        samples_per_problem=config.evaluation.samples_per_prompt,
        seed=config.run.seed,
        engine=config.rollout.engine.model_dump(mode="json"),
        verifier=verifier_record(config.reward),
        versions=package_versions(),
        data={
            dataset.label: _data(dataset, of_set)
            for dataset, of_set in zip(config.evaluation.datasets, held_out, strict=True)
        },
    )


def machine_of(config: EvalConfig | None = None) -> Machine:
    """The machine of this process; of a Ray cluster that of the driver, and the number of workers."""
    device = "cpu"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    if config is not None and isinstance(config.cluster, RayClusterConfig):
        device = f"{config.cluster.ranks} Ray workers ({config.cluster.device}); here: {device}"
    return Machine(platform=platform.platform(), cpu_count=os.cpu_count() or 1, device=device)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of Python and of packages that an evaluation's numbers depend on, those of verifiers included."""
    found = {name: version for name, version in versions().items() if name not in _OF_THE_MACHINE}
    return found | verifier_versions()


def verifier_versions() -> dict[str, str]:
    """Versions of the installed packages that verifiers use."""
    found = {name: installed_version(name) for name in _OF_VERIFIERS}
    return {name: version for name, version in found.items() if version is not None}


def verifier_record(config: RewardConfig) -> VerifierRecord:
    """The reward functions with their parameters in evaluation."""
    return VerifierRecord(
        functions=[
            VerifierFunctionRecord(
                fn=function.fn,
                source_sha256=_source_hash(function.fn),
                parameters=function.parameters,
                weight=function.weight,
                failure_score=function.score_of_failure,
            )
            for function in config.for_evaluation().functions
        ],
        timeout_seconds=config.timeout_seconds,
        memory_gib=config.memory_gib,
    )


def _hash_in_order(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of the hashes of several."""
    first, *others = digests = [file_hash(file) for file in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if others else first


def _folders(model: ModelConfig) -> tuple[Path, Path]:
    """The folders of weights and tokenizer on this machine."""
    if is_hub_name(model.path) or (model.tokenizer and is_hub_name(model.tokenizer)):
        download(model)
        model = from_cache(model)
    return Path(model.path), Path(model.tokenizer or model.path)


def _model(config: EvalConfig, folder: Path) -> ModelRecord:
    files = checkpoint_files(folder)
    weights = [file for file in files if file.suffix in _WEIGHTS]
    code = [file for file in files if file.suffix == ".py"] if config.model.trust_remote_code else []
    size = sum(file.stat().st_size for file in weights)
    with progress_bar(config.logging.progress, "hashing weights", size) as advance:
        hashed = hash_of_files(weights, folder, advance)
    return ModelRecord(
        path=config.model.path,
        weights_sha256=hashed,
        config_sha256=hash_of_files([file for file in files if file.name in _CONFIGS] + code, folder),
        bytes=size,
        dtype=config.rollout.engine.dtype or config.model.dtype,
    )


def _tokenizer(model: ModelConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenizerRecord:
    files = [
        file
        for file in checkpoint_files(folder)
        if file.name.startswith(_TOKENIZER_FILES) or file.suffix in _TOKENIZER_SUFFIXES
    ]
    template: Any = tokenizer.chat_template  # text; of several named ones a mapping
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return TokenizerRecord(
        path=model.tokenizer or model.path,
        sha256=hash_of_files(files, folder),
        chat_template_sha256=hashlib.sha256(text.encode()).hexdigest() if template else None,
    )


def _prompts(config: PromptConfig, tokenizer: PreTrainedTokenizerBase) -> PromptRecord:
    named = None if config.template is None else TEMPLATES[config.template]
    wanted = config.apply_chat_template if named is None else named.chat
    return PromptRecord(
        template=config.template,
        system=config.system if named is None else named.system,
        chat_template=bool(tokenizer.chat_template) and wanted is not False,
        max_tokens=config.max_tokens,
        overlong=config.overlong,
    )


def _data(dataset: DatasetConfig, held_out: HeldOut) -> DataRecord:
    return DataRecord(
        path=", ".join(map(str, dataset.paths)),
        sha256=_hash_in_order(dataset.paths),
        rows=dataset.model_dump(mode="json", exclude={"path", "name"}),
        prompts_sha256=str(fingerprint(held_out.prompts)["order"]),
        first_prompt=held_out.prompts[0].text,
    )


def _source_hash(fn: str) -> str:
    """Hash of a function's file or, where it is in a package, of all Python files of that, which it may import."""
    place = fn.rpartition(":")[0]
    if place.endswith(".py") or "/" in place:
        if not Path(place).is_file():
            raise ConfigError(f"reward function {fn!r}: there is no file {place}")
        return file_hash(Path(place))
    spec = importlib.util.find_spec(place.partition(".")[0])
    if spec is None:
        raise ConfigError(f"reward function {fn!r}: there is no module {place!r}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        return file_hash(Path(spec.origin)) if spec.origin else ""
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return hash_of_files(files, folders[0])
