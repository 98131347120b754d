"""What vLLM is started with, and what is told when it does not start or cannot load. No engine is started here."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import VllmEngineConfig
from reasoner_rl.distributed import building
from reasoner_rl.errors import ConfigError
from reasoner_rl.rollout import vllm_engine
from reasoner_rl.rollout.vllm_engine import VllmRolloutEngine, check_memory, refusal, vllm_options

GIB = 2**30


@pytest.fixture
def model(tiny_checkpoint: Callable[[str], Path]) -> ModelConfig:
    return ModelConfig(path=str(tiny_checkpoint("qwen2-tied")), dtype="bfloat16")


def test_options_of_a_gpu(model: ModelConfig) -> None:
    options = vllm_options(model, VllmEngineConfig(dtype="float32"), on_cpu=False, context_tokens=96)
    assert options["dtype"] == "float32"
    assert options["enable_sleep_mode"] is True
    assert options["enforce_eager"] is False
    assert options["max_model_len"] == 96
    assert options["disable_custom_all_reduce"] is False
    shared = vllm_options(model, VllmEngineConfig(share_weights=True), on_cpu=False, context_tokens=4096)
    assert shared["enable_sleep_mode"] is False
    assert shared["max_model_len"] == 256, "the model's own limit"


def test_a_cpu_reads_whole_prompts(model: ModelConfig) -> None:
    options = vllm_options(model, VllmEngineConfig(max_batched_tokens=50), on_cpu=True, context_tokens=96)
    assert options["enable_chunked_prefill"] is False
    assert options["max_num_batched_tokens"] == 96
    assert "enable_sleep_mode" not in options


def test_custom_all_reduce_is_off_between_workers_that_see_one_gpu_each(
    model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = vllm_options(model, VllmEngineConfig(tensor_parallel=2), on_cpu=False, context_tokens=96)
    assert options["disable_custom_all_reduce"] is True
    platforms = pytest.importorskip("vllm.platforms.interface", reason="vLLM is not installed")

    class Gpu(platforms.Platform):  # type: ignore[misc, name-defined]
        device_control_env_var = "CUDA_VISIBLE_DEVICES"

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    translate = Gpu.logical_device_id_to_visible_device_id
    assert translate(0) == 0
    with pytest.raises(IndexError):  # what vLLM's custom all-reduce asks for, of the other rank
        translate(1)


def test_too_little_memory_is_told_with_need_and_have(
    model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_memory(0.5, free=40 * GIB, whole=80 * GIB)
    with pytest.raises(
        ConfigError,
        match=r"gpu_memory_utilization=0\.6 of .* 80\.0 GiB needs 48\.0 GiB .* 40\.5 GiB are free",
    ):
        check_memory(0.6, free=int(40.5 * GIB), whole=80 * GIB)
    cache = ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.")
    assert str(refusal(cache, model, VllmEngineConfig(gpu_memory_utilization=0.1))).startswith(
        "rollout.engine.gpu_memory_utilization=0.1: vLLM lacks memory: No available memory"
    )
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100")
    on_cpu = ValueError(
        "less than requested memory for kv (100.0 GiB). Decrease VLLM_CPU_KVCACHE_SPACE, or ..."
    )
    assert str(refusal(on_cpu, model, VllmEngineConfig())).startswith(
        "VLLM_CPU_KVCACHE_SPACE=100: vLLM lacks memory"
    )
    other = refusal(ValueError("Model architectures ['X'] are not supported"), model, VllmEngineConfig())
    assert str(other).startswith(f"model.path={model.path!r}: vLLM refuses it: Model architectures")


@pytest.mark.parametrize(
    ("version", "warned"), [("0.24.0", True), ("0.30.9+cu130", True), ("0.31.0", False), ("0.33.1", False)]
)
def test_a_vllm_that_ignores_unknown_names_is_told_of(
    version: str, warned: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM="the class", __spec__=object()))
    monkeypatch.setattr(vllm_engine.metadata, "version", lambda name: version)
    assert vllm_engine._import_llm(on_cpu=False, dtype="bfloat16") == "the class"
    told = [str(warning.message) for warning in recwarn]
    assert [text.startswith(f"vLLM {version} ignores weights under names") for text in told] == [
        True
    ] * warned


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("bfloat16", None)])
def test_triton_multiplies_float32_without_tf32(
    dtype: str, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM="the class", __spec__=object()))
    monkeypatch.setattr(vllm_engine.metadata, "version", lambda name: "0.31.0")
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    vllm_engine._import_llm(on_cpu=False, dtype=dtype)
    found = os.environ.pop("TRITON_F32_DEFAULT", None)
    assert found == precision


def test_training_starts_vllm_with_dummy_weights_and_evaluation_does_not(
    model: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Started(Exception):
        pass

    def start(*arguments: Any, dummy_weights: bool, **options: Any) -> None:
        raise Started(dummy_weights)

    monkeypatch.setattr(building, "build_vllm_engine", start)
    path = f"model.path={model.path}"
    training = ["rollout.engine={kind: vllm}", f"data.train.path={tmp_path}/x", f"run.output_dir={tmp_path}"]
    evaluation = ["rollout.engine={kind: vllm}", f"run.output_dir={tmp_path}"]
    for recipe, overrides, dummy in (("quickstart", training, True), ("aime", evaluation, False)):
        config: Any = load_recipe(recipe, [path, *overrides])
        with pytest.raises(Started, match=str(dummy)):
            building.build_worker(config)


class PretendLlm:
    """Applies functions to a model of one tensor, whose loader is given."""

    def __init__(self, load: Callable[[Iterator[tuple[str, Tensor]]], set[str]]) -> None:
        self.llm_engine = SimpleNamespace()
        self.model = nn.Linear(2, 1, bias=False)
        self.model.load_weights = load  # type: ignore[assignment]

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        return [function(self.model)]

    def reset_prefix_cache(self) -> bool:
        return True


def engine(load: Callable[[Iterator[tuple[str, Tensor]]], set[str]]) -> VllmRolloutEngine:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    return VllmRolloutEngine(PretendLlm(load), None, [0], sleep_level=None)


@pytest.mark.parametrize(
    "error", [KeyError("w"), ValueError("no place for w"), AssertionError("shapes differ")]
)
def test_what_a_loader_raises_is_told_as_weights_that_do_not_fit(error: Exception) -> None:
    def refuse(tensors: Any) -> set[str]:
        raise error

    with pytest.raises(ValueError, match="the weights do not fit the rollout model"):
        engine(refuse).load_weights([], version=1)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: an illegal memory access"), torch.distributed.DistBackendError("NCCL error")],
)
def test_errors_of_the_device_are_not_told_as_weights_that_do_not_fit(error: Exception) -> None:
    def fail(tensors: Any) -> set[str]:
        raise error

    with pytest.raises(type(error), match=str(error)):
        engine(fail).load_weights([], version=1)


def test_errors_of_the_trainer_that_streams_are_not_told_as_weights_that_do_not_fit() -> None:
    def stream() -> Iterator[tuple[str, Tensor]]:
        yield "weight", torch.zeros(1, 2)
        raise ValueError("the trainer's own mistake")

    with pytest.raises(ValueError, match=r"^the trainer's own mistake$"):
        engine(lambda tensors: {name for name, _ in tensors}).load_weights(stream(), version=1)


def test_no_batch_is_in_flight_when_vllm_sleeps() -> None:
    vllm = engine(lambda tensors: set())
    batches, slept = ["begun before the last response ended"], []
    core = SimpleNamespace(batch_queue=batches)
    vllm._engine.engine_core = SimpleNamespace(engine_core=core)
    vllm._engine.step = batches.clear
    vllm._llm.sleep = lambda level: slept.append((level, list(batches)))
    vllm._sleep_level = 2
    vllm.sleep()
    vllm.sleep()
    assert slept == [(2, [])]
    assert importlib.import_module("vllm").SamplingParams().flat_logprobs is False, (
        "vLLM has it, so it is used"
    )
    assert vllm._flat == {"flat_logprobs": True}
