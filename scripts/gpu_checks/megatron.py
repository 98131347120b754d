"""Training with Megatron-core on one rank, with TransformerEngine's layers and with the local ones.

Each kind of layers is a check of its own, because a process uses TransformerEngine or does not (`settle_layers`).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM

from gpu_checks.common import (
    GIB,
    Context,
    Figures,
    Skip,
    checkpoint,
    exact_float32,
    packed_batch,
    peak_gib,
    random_samples,
    relative_error,
    require,
    start_peak,
    stopwatch,
    used_gib,
)
from gpu_checks.training import (
    FREED_SHARE,
    LARGE_EPS,
    compare_updates,
    copied,
    gaps_to,
    logprobs_by_sample,
    loss_of,
    objective,
    plain_gradients,
)
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig, OptimizerConfig, TrainingConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.metrics import values
from reasoner_rl.training.megatron.layer_choice import Layers
from reasoner_rl.types import MiniBatch, TrainSample

# Bytes per parameter in bfloat16: weights; float32 gradients, master copies and two moments.
WEIGHTS, OPTIMIZER = 2, 16
LEAST_COSINE = 0.99  # of a matrix's gradient in bfloat16 with that of float32
MORE_GIB = 0.5  # that may be in use after reloading than before


def local(context: Context) -> Figures:
    """Megatron-core's own layers with PyTorch's attention, as on a machine without TransformerEngine."""
    require("megatron.core", "mbridge")
    exact_float32()
    plain = Plain(context)
    float32_parity(context, plain)
    optimizers_agree(context, plain)
    bfloat16_parity(context, plain, "local")
    resume(context, "local")
    large_model(context, "local")
    return {}


def transformer_engine(context: Context) -> Figures:
    """TransformerEngine's layers, optimizer and attention. In float32 it multiplies in TF32: a figure, and no claim."""
    require("megatron.core", "mbridge", "transformer_engine")
    if context.device.type == "cpu":
        raise Skip("TransformerEngine needs a GPU")
    exact_float32()
    plain = Plain(context)
    bfloat16_parity(context, plain, "transformer_engine")
    resume(context, "transformer_engine")
    large_model(context, "transformer_engine")
    backend = build(plain.path, "transformer_engine")
    gaps = gaps_to(plain.samples, logprobs_by_sample(backend, plain.batch))
    return {"float32_gap_mean_nats": float(gaps.mean()), "float32_gap_max_nats": float(gaps.max())}


class Plain:
    """What plain transformers computes in float32 with attention written out: logprobs (in the samples), gradients."""

    path: Path
    samples: list[TrainSample]
    batch: MiniBatch
    gradients: dict[str, Tensor]
    norm: float

    def __init__(self, context: Context) -> None:
        self.path = checkpoint(context, context.pick("small", "tiny"))
        lengths = context.pick(((20, 60), (50, 300)), ((4, 8), (5, 15)))
        samples = random_samples(4, 3, *lengths, seed=context.seed)
        model: Any = AutoModelForCausalLM.from_pretrained(
            self.path, dtype=torch.float32, attn_implementation="eager"
        )
        model.to(context.device)
        self.samples, self.gradients, self.norm = plain_gradients(model, samples, context.seed)
        self.batch = packed_batch(self.samples, context.pick(1024, 48))


def build(
    path: Path,
    layers: Layers,
    *,
    lr: float = 1e-3,
    eps: float = LARGE_EPS,
    distributed: bool = True,
    dtype: str = "float32",
) -> Any:
    """A Megatron backend on one rank: NCCL on a GPU, gloo on a CPU."""
    backend = MegatronBackendConfig(layers=layers, distributed_optimizer=distributed)
    training = TrainingConfig(backend=backend, optimizer=OptimizerConfig(lr=lr, eps=eps))
    model = ModelConfig.model_validate({"path": str(path), "dtype": dtype})
    return build_backend(model, training, total_updates=100)


def gradients(backend: Any, batch: MiniBatch) -> dict[str, Tensor]:
    """Whole gradients of an update that is then not made, by Hugging Face name. Not with the distributed optimizer."""
    caught: dict[str, Tensor] = {}

    class Caught(Exception):
        pass

    def catch() -> bool:
        kept = {p: p.data for chunk in backend._models for p in chunk.parameters()}
        for parameter in kept:
            parameter.data = parameter.main_grad.to(parameter.dtype, copy=True)
        caught.update(copied(backend))
        for parameter, data in kept.items():
            parameter.data = data
        raise Caught

    original = backend._optimizer.prepare_grads
    backend._optimizer.prepare_grads = catch
    try:
        backend.update(batch, loss_of)
    except Caught:
        return caught
    finally:
        backend._optimizer.prepare_grads = original
    raise AssertionError("the update did not prepare its gradients")


def float32_parity(context: Context, plain: Plain) -> None:
    """Logprobs, gradients and their norm in float32, without the distributed optimizer."""
    backend = build(plain.path, "local", distributed=False)
    gap = float(gaps_to(plain.samples, logprobs_by_sample(backend, plain.batch)).max())
    found = gradients(backend, plain.batch)
    assert found.keys() == plain.gradients.keys(), (
        f"gradients of {found.keys() ^ plain.gradients.keys()} are missing"
    )
    errors = {name: relative_error(found[name], expected) for name, expected in plain.gradients.items()}
    worst = max(errors, key=lambda name: errors[name])
    norm = values(backend.update(plain.batch, loss_of))["train/grad_norm"]
    context.report(
        float32_gap_max_nats=gap,
        float32_gradient_error=errors[worst],
        float32_worst_gradient=worst,
        float32_grad_norm_error=abs(norm / plain.norm - 1),
    )
    assert gap <= 1e-4, f"a logprob is off by {gap:.3g} nats; 1e-4 is rounding"
    assert errors[worst] <= 1e-4, f"the gradient of {worst} is off by {errors[worst]:.3g}; 1e-4 is rounding"
    assert abs(norm / plain.norm - 1) <= 1e-5, f"the gradient's norm is {norm}, not {plain.norm}"


def optimizers_agree(context: Context, plain: Plain) -> None:
    """Three updates in float32 give the same weights with the distributed optimizer as without."""
    weights, start = [], {}
    for distributed in (False, True):
        backend = build(plain.path, "local", lr=1e-2, distributed=distributed)
        start = copied(backend)
        for _ in range(3):
            backend.update(plain.batch, loss_of)
        weights.append(copied(backend))
    figures = compare_updates(start, weights[1], weights[0])
    context.report(**{f"distributed_optimizer_{name}": figure for name, figure in figures.items()})


def bfloat16_parity(context: Context, plain: Plain, layers: Layers) -> None:
    """Logprobs and gradients in bfloat16 against float32, and three updates, which must fit the batch better."""
    backend = build(plain.path, layers, eps=1e-8, distributed=False, dtype="bfloat16")
    gaps = gaps_to(plain.samples, logprobs_by_sample(backend, plain.batch))
    found = gradients(backend, plain.batch)
    cosines = {
        name: float(cosine_similarity(found[name].float().flatten(), expected.flatten(), dim=0))
        for name, expected in plain.gradients.items()
        if expected.ndim > 1
    }
    worst = min(cosines, key=lambda name: cosines[name])
    context.report(
        bfloat16_gap_mean_nats=float(gaps.mean()),
        bfloat16_gap_max_nats=float(gaps.max()),
        bfloat16_gradient_cosine=cosines[worst],
        bfloat16_worst_gradient=worst,
    )
    before = objective(backend, plain.samples, plain.batch)
    for _ in range(3):
        backend.update(plain.batch, loss_of)
    after = objective(backend, plain.samples, plain.batch)
    context.report(objective_before=before, objective_after=after)
    assert gaps.mean() < 0.05, f"bfloat16 is off by {gaps.mean():.3g} nats on average"
    assert cosines[worst] > LEAST_COSINE, f"the gradient of {worst} has a cosine of {cosines[worst]:.4f}"
    assert after > before, f"three updates lowered the objective from {before:.5g} to {after:.5g}"


def stepped(backend: Any) -> dict[str, Tensor]:
    """Copies of what the optimizer steps: in bfloat16 the float32 copies of the weights."""
    chained = getattr(backend._optimizer, "chained_optimizers", [backend._optimizer])
    groups = [group for each in chained for group in each.optimizer.param_groups]
    return {
        f"{number}.{index}": parameter.detach().clone()
        for number, group in enumerate(groups)
        for index, parameter in enumerate(group["params"])
    }


def resume(context: Context, layers: Layers) -> None:
    """What is saved with the optimizer on the host comes back to the bit, and the next update is the same."""
    path, folder = checkpoint(context, context.pick("small", "tiny")), context.folder
    lengths = context.pick(((20, 60), (50, 300)), ((4, 8), (10, 20)))
    batch = packed_batch(random_samples(4, 4, *lengths, seed=context.seed), context.pick(4096, 128))
    backend = build(path, layers, dtype="bfloat16")
    backend.update(batch, loss_of)
    saved = stepped(backend)
    backend.offload_optimizer()
    backend.save(folder)
    backend.reload()
    backend.update(batch, loss_of)
    resumed = build(path, layers, dtype="bfloat16")
    resumed.load(folder)
    for name, weight in stepped(resumed).items():
        assert torch.equal(weight, saved[name]), f"{name} of the optimizer is not what was saved"
    resumed.update(batch, loss_of)
    figures = compare_updates(saved, stepped(resumed), stepped(backend))
    context.report(**{f"resumed_{name}": figure for name, figure in figures.items()})


def large_model(context: Context, layers: Layers) -> None:
    """Speed and memory in bfloat16; emptying and refilling all buffers, after which the next update is the same."""
    path = checkpoint(context, context.pick("0.5b", "tiny"))
    lengths = context.pick(((64, 256), (900, 1100)), ((4, 8), (10, 20)))
    samples = random_samples(4, 4, *lengths, seed=context.seed)
    batch = packed_batch(samples, context.pick(8192, 128))
    gc.collect()
    start_peak()
    with stopwatch() as seconds:
        backend = build(path, layers, dtype="bfloat16")
        context.report(build_s=seconds())
    context.report(attention=core_attention(backend))
    start = stepped(backend)
    seconds_each = update_times(backend, batch, 3)
    tokens = sum(sample.tokens for sample in samples)
    context.report(
        tokens=tokens,
        first_update_s=seconds_each[0],
        tokens_per_s=tokens / median(seconds_each[1:]),
        peak_gib=peak_gib(),
    )
    updated = stepped(backend)
    empty_and_refill(context, backend)
    for name, weight in stepped(backend).items():
        assert torch.equal(weight, updated[name]), f"{name} of the optimizer came back changed"
    del backend
    # A backend that moves between two updates, and one that stays: few updates, because they differ by rounding.
    pair = [build(path, layers, dtype="bfloat16") for _ in range(2)]
    for other in pair:
        other.update(batch, loss_of)
    pair[0].offload_optimizer()
    pair[0].offload_weights()
    pair[0].reload()
    for other in pair:
        other.update(batch, loss_of)
    figures = compare_updates(start, stepped(pair[0]), stepped(pair[1]))
    context.report(**{f"offloaded_{name}": figure for name, figure in figures.items()})


def update_times(backend: Any, batch: MiniBatch, count: int) -> Sequence[float]:
    """Seconds of each of some updates."""
    taken = []
    for _ in range(count):
        with stopwatch() as seconds:
            backend.update(batch, loss_of)
            taken.append(seconds())
    return taken


def core_attention(backend: Any) -> str:
    """The class of the layers' attention."""
    [name] = {
        type(module).__name__
        for chunk in backend._models
        for path, module in chunk.named_modules()
        if path.endswith(".core_attention")
    }
    return name


def empty_and_refill(context: Context, backend: Any) -> None:
    """Report the driver's memory and GB/s of each move. Raises AssertionError where less is freed than was held."""
    parameters = sum(p.numel() for chunk in backend._models for p in chunk.parameters())
    start_peak()
    used = {"start": used_gib()}
    for name, move, size in (
        ("without_optimizer", backend.offload_optimizer, OPTIMIZER - 4),  # gradients are not copied
        ("without_both", backend.offload_weights, WEIGHTS),
        ("reloaded", backend.reload, OPTIMIZER - 4 + WEIGHTS),
    ):
        with stopwatch() as seconds:
            move()
            context.report(**{f"{name}_gb_per_s": 1e-9 * size * parameters / seconds()})
        used[name] = used_gib()
        context.report(**{f"{name}_used_gib": used[name]})
    context.report(start_used_gib=used["start"], parameters=parameters)
    if context.device.type == "cpu":
        return
    check_freed(used, parameters / GIB)


def check_freed(used: Mapping[str, float], gib_per_byte: float) -> None:
    """Compare the driver's figures with what the buffers must hold. gib_per_byte: GiB of a byte per parameter."""
    optimizer = used["start"] - used["without_optimizer"]
    weights = used["without_optimizer"] - used["without_both"]
    for name, freed, size in (("optimizer", optimizer, OPTIMIZER), ("weights", weights, WEIGHTS)):
        held = size * gib_per_byte
        assert freed > FREED_SHARE * held, f"{name}: of {held:.2f} GiB {freed:.2f} were freed"
    assert used["reloaded"] < used["start"] + MORE_GIB, f"more is in use than before: {used}"
