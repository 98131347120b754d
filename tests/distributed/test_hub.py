"""A model on the hub is downloaded by one worker of each machine, and read from the cache by all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig
from reasoner_rl.distributed import hub
from reasoner_rl.errors import ConfigError


def test_one_rank_of_each_machine_downloads() -> None:
    assert hub.first_on_each_machine(["a", "a", "b", "a", "b", "c"]) == [0, 2, 5]


def test_folders_are_no_names_on_the_hub(tmp_path: Path) -> None:
    assert hub.hub_names(ModelConfig(path=str(tmp_path))) == []
    assert hub.hub_names(ModelConfig(path="Qwen/x", tokenizer="Qwen/x")) == ["Qwen/x"]
    assert hub.hub_names(ModelConfig(path=str(tmp_path), tokenizer="Qwen/y")) == ["Qwen/y"]


def test_workers_load_from_the_folder_that_was_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, bool, bool]] = []
    (tmp_path / "Qwen/x").mkdir(parents=True)
    (tmp_path / "Qwen/x/model.safetensors").touch()

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool, **rest: Any) -> str:
        calls.append((name, "*.safetensors" in allow_patterns, local_files_only))
        return f"{tmp_path}/{name}"

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    model = ModelConfig(path="Qwen/x", tokenizer="Qwen/y", dtype="float32")
    hub.download(model)
    assert calls == [("Qwen/x", True, False), ("Qwen/y", False, False)]
    calls.clear()
    local = hub.from_cache(model)
    assert calls == [("Qwen/x", True, True), ("Qwen/y", False, True)], "the hub is not asked again"
    assert local == ModelConfig(path=f"{tmp_path}/Qwen/x", tokenizer=f"{tmp_path}/Qwen/y", dtype="float32")
    calls.clear()
    there = ModelConfig(path=str(tmp_path))
    assert hub.from_cache(there) == there
    assert calls == []


def test_models_published_with_pytorchs_weights_alone_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_the_hub = [
        "config.json",
        "pytorch_model.bin",
        "original/consolidated.bin",
        "training_args.bin",
        "model.gguf",
    ]

    def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str], **rest: Any) -> str:
        for file in filter_repo_objects(
            on_the_hub, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert hub.from_cache(ModelConfig(path="old/model")).path == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pytorch_model.bin"]
    (tmp_path / "pytorch_model.bin").unlink()
    on_the_hub.remove("pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"'old/model': the hub has no weights .* \*\.safetensors or pytorch_model"
    ):
        hub.download(ModelConfig(path="old/model"))


def test_what_cannot_be_fetched_is_told_by_key() -> None:
    model = ModelConfig(path="nobody/no-such-model")
    with pytest.raises(ConfigError, match=r"model\.path='nobody/no-such-model': is no folder here.*hub"):
        hub.from_cache(model)


def test_a_critics_own_checkpoint_is_fetched_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": "o"},
            "model": {"path": str(tmp_path)},
            "data": {"train": {"path": "a.jsonl"}},
            "algorithm": {"kind": "ppo"},
            "critic": {"path": "some/critic", "offload": "all"},
        }
    )
    critic = hub.models_of(config)["critic"]
    assert hub.hub_names(critic) == ["some/critic"]
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **rest: f"{tmp_path}")
    cached = hub.with_cached_models(config)
    assert isinstance(cached, OnlineConfig)
    assert cached.critic is not None
    assert (cached.model, cached.critic.path, cached.critic.offload) == (config.model, str(tmp_path), "all")

    def fails(name: str, **rest: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(ConfigError, match=r"critic\.path='some/critic': is no folder here"):
        hub.download(critic, "critic")


def test_a_references_own_checkpoint_is_fetched_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = PreferenceConfig.model_validate(
        {
            "run": {"output_dir": "o"},
            "model": {"path": str(tmp_path), "lora": {"rank": 4}},
            "data": {"train": {"path": "a.jsonl"}},
            "reference": {"path": "some/reference"},
        }
    )
    reference = hub.models_of(config)["reference"]
    assert (reference.path, reference.tokenizer, reference.lora) == ("some/reference", str(tmp_path), None)
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **rest: f"{tmp_path}")
    cached = hub.with_cached_models(config)
    assert isinstance(cached, PreferenceConfig)
    assert cached.reference is not None
    assert (cached.model, cached.reference.path) == (config.model, str(tmp_path))
    alone = config.model_copy(update={"reference": None})
    assert hub.models_of(alone).keys() == {"model"}
    assert hub.with_cached_models(alone) == alone
