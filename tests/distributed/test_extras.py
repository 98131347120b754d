"""Without an optional package, choosing what needs it names the extra to install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.training import MegatronBackendConfig, TrainingConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.distributed.launch import launch_workers
from reasoner_rl.errors import MissingExtraError


def absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec

    def find_spec(asked: str, *args: Any) -> Any:
        if asked == name:
            return None
        if asked.startswith(f"{name}."):
            raise ModuleNotFoundError(asked)
        return real(asked, *args)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)


@pytest.mark.parametrize("package", ["ray", "verl"])
def test_workers_that_ray_starts(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(package, monkeypatch)
    config = OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "cluster": {"kind": "ray"},
        }
    )
    wanted = rf"cluster.kind=ray needs the package '{package}'.*pip install 'reasoner_rl\[cluster\]'"
    with (
        pytest.raises(MissingExtraError, match=wanted),
        launch_workers(config, build_algorithm(config), print),
    ):
        pass


@pytest.mark.parametrize("package", ["megatron", "mbridge"])
def test_training_with_megatron(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("megatron.core")  # or mbridge is not what is missing first
    absent(package, monkeypatch)
    training = TrainingConfig(backend=MegatronBackendConfig())
    with pytest.raises(
        MissingExtraError, match=r"kind=megatron needs .*pip install 'reasoner_rl\[megatron\]'"
    ):
        build_backend(ModelConfig(path="unused"), training, total_updates=1)
