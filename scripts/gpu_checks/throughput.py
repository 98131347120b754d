"""What training and generation reach of the machine, with Qwen2.5's shapes in bfloat16, and what options are worth.

Figures alone: nothing is claimed but that it runs. On a CPU all of it runs with a tiny model, where the figures mean
nothing.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoConfig

from gpu_checks.common import (
    SHAPES,
    Context,
    Figures,
    checkpoint,
    copy_speeds,
    matmul_tflops,
    packed_batch,
    peak_gib,
    random_samples,
    release_cache,
    require,
    start_peak,
    stopwatch,
)
from gpu_checks.engines import start_vllm
from gpu_checks.pair import Pair, build_pair, generate
from gpu_checks.training import attention_of, loss_of, parameters
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig
from reasoner_rl.config.training import FsdpBackendConfig, OptimizerConfig, TrainingConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.types import MiniBatch, TrainSample

STEP_TIME = Path(__file__).resolve().parents[1] / "bench" / "step_time.py"
# Changes of the model's section and of the backend's. "plain" is what the others are compared with.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "compiled": ({}, {"compile_layers": True}),
    "checkpointing": ({"gradient_checkpointing": True}, {}),
    "keep_attention": ({"gradient_checkpointing": "keep_attention"}, {}),
    "compiled keep_attention": ({"gradient_checkpointing": "keep_attention"}, {"compile_layers": True}),
}
TIMED = 5  # updates of each variant, after two that are not timed


def options(context: Context) -> Figures:
    """Updates of the 0.5B shape with each option in turn, A B C A B C ..., as ratios of the plain one's time.

    Explicit prefetching is not among them: on one rank nothing is gathered.
    """
    shape = context.pick("0.5b", "tiny")
    # Without generated code on a CPU, where making it takes minutes.
    names = list(VARIANTS) if context.full else ["plain", "checkpointing", "keep_attention"]
    batch, _ = _batch(context)
    backends = {name: _build(context, shape, name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(TIMED + 2):
        for name, backend in backends.items():
            taken = _update(backend, batch)
            if turn == 0:
                context.report(**{f"{name} first_update_s": taken})
            elif turn > 1:
                seconds[name].append(taken)
    plain = median(seconds["plain"])
    for name, taken_each in seconds.items():
        context.report(**{f"plain_over {name}": plain / median(taken_each)})
    return {}


def updates(context: Context) -> Figures:
    """Tokens per second and MFU of updates of both shapes, with attention kept, compiled and not.

    MFU counts 6 floating-point operations per parameter and token, those of attention with its causal half, and nothing
    that is computed again; against the matrix product that is measured here.
    """
    tflops = matmul_tflops(context.device)
    context.report(matmul_tflops=tflops)
    batch, samples = _batch(context)
    tokens = sum(sample.tokens for sample in samples)
    for shape in ("0.5b", "1.5b") if context.full else ("tiny",):
        for name in ("keep_attention", "compiled keep_attention") if context.full else ("keep_attention",):
            start_peak()
            backend = _build(context, shape, name)
            taken = median([_update(backend, batch) for _ in range(TIMED + 2)][2:])
            flops = 6 * parameters(backend) * _computed(samples) + _attention_flops(shape, samples)
            figures = {"tokens_per_s": tokens / taken, "mfu": 1e-12 * flops / taken / tflops}
            figures["peak_gib"] = peak_gib()
            context.report(**{f"{shape} {name} {figure}": value for figure, value in figures.items()})
            context.report(attention=attention_of(backend))
            del backend
            gc.collect()
            release_cache()
    return {}


def generation(context: Context) -> Figures:
    """Tokens per second of the embedded engine beside what the bandwidth of the device allows."""
    pair = build_pair(
        context, context.pick("0.5b", "tiny"), "bfloat16", HfEngineConfig(max_batch_sequences=256), lr=1e-5
    )
    _measure_generation(pair)
    return {}


def generation_vllm(context: Context) -> Figures:
    """The same of vLLM, with CUDA graphs on a GPU."""
    claims, pair = start_vllm(context, "bfloat16", eager=not context.full, lr=1e-5)
    _measure_generation(pair)
    claims.conclude()
    return {}


def beside_trl(context: Context) -> Figures:
    """A step of DAPO and one of TRL on the same work, by scripts/bench/step_time.py."""
    require("trl", "datasets")
    model = str(checkpoint(context, context.pick("0.5b", "tiny")))
    sizes = context.pick(
        ["--prompts", "32", "--responses", "8", "--tokens", "256", "--steps", "5"],
        ["--prompts", "2", "--responses", "4", "--tokens", "4", "--steps", "1", "--threads", "1"],
    )
    device = context.pick(
        ["--device", "cuda", "--dtype", "bfloat16", "--micro-batch-tokens", "32768"], ["--device", "cpu"]
    )
    found = context.folder / "step_time.json"
    subprocess.run(
        [sys.executable, str(STEP_TIME), "--model", model, *sizes, *device, "--json", str(found)], check=True
    )
    report = json.loads(found.read_text())
    for side, seconds in report["median_seconds"].items():
        context.report(**{f"{side} {phase}_s": taken for phase, taken in seconds.items()})
    return {"trl_over_ours": report["trl_over_ours"]}


def _batch(context: Context) -> tuple[MiniBatch, list[TrainSample]]:
    """Responses to eight prompts, or tiny ones, in micro-batches that a large GPU holds without checkpointing."""
    prompt, response = context.pick(((64, 256), (900, 1100)), ((4, 8), (10, 20)))
    samples = random_samples(8, 4, prompt, response, seed=context.seed)
    return packed_batch(samples, context.pick(16384, 128)), samples


def _build(context: Context, shape: str, variant: str) -> FsdpBackend:
    """A backend on one rank, in bfloat16 on a GPU; CPUs compute that slowly."""
    model, backend = VARIANTS[variant]
    config = ModelConfig.model_validate(
        {"path": str(checkpoint(context, shape)), "dtype": context.pick("bfloat16", "float32"), **model}
    )
    training = TrainingConfig(backend=FsdpBackendConfig(**backend), optimizer=OptimizerConfig(lr=1e-6))
    built = build_backend(config, training, total_updates=1000)
    assert isinstance(built, FsdpBackend)
    return built


def _update(backend: FsdpBackend, batch: MiniBatch) -> float:
    with stopwatch() as seconds:
        backend.update(batch, loss_of)
        return seconds()


def _computed(samples: list[TrainSample]) -> int:
    """Tokens that are computed: a group's prompt once, of four responses to each."""
    return sum(
        sample.tokens - (len(sample.prompt_ids) if index % 4 else 0) for index, sample in enumerate(samples)
    )


def _attention_flops(shape: str, samples: list[TrainSample]) -> float:
    """Of forward and backward: 12 per layer, column of the query heads and pair of tokens that see each other."""
    width = SHAPES[shape].hidden
    return 12.0 * SHAPES[shape].layers * width * sum(sample.tokens**2 / 2 for sample in samples)


def _measure_generation(pair: Pair) -> None:
    """Responses of equal length, and the tokens per second at which weights and cache could at most be read.

    The bandwidth is that of a copy on the device, which reads and writes every byte. A decoding step reads all weights,
    and the keys and values of every response so far.
    """
    context = pair.context
    copied = copy_speeds(context.device, context.pick(1.0, 0.01))["copy_device_gb_per_s"]
    assert isinstance(copied, float)
    speed = 2e9 * copied
    engine = pair.hybrid()
    pair.publish(engine)
    length = context.pick(512, 8)
    sampling = SamplingConfig(max_response_tokens=length, min_response_tokens=length)
    config: Any = AutoConfig.from_pretrained(checkpoint(context, context.pick("0.5b", "tiny")))
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    cached = 2 * config.num_hidden_layers * width * 2  # bytes per token, in 16 bits
    weights = 2 * sum(shape.numel() for shape in pair.backend.parameter_shapes().values())  # type: ignore[attr-defined]
    for rows in context.pick((32, 64, 256), (4,)):
        requests = pair.requests(context.pick(8, 2), rows // context.pick(8, 2))
        generate(engine, requests, sampling)  # the first time captures graphs and sizes buffers
        groups, reached = generate(engine, requests, sampling)
        seen = sum(len(request.prompt_ids) + length / 2 for request in requests) / len(requests)
        bound = rows * speed / (weights + rows * seen * cached)
        assert sum(len(group) for group in groups) == rows
        context.report(
            **{f"{rows}_rows tokens_per_s": reached, f"{rows}_rows share_of_bandwidth": reached / bound}
        )
    engine.take_turn("policy")
