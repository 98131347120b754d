"""Training with FSDP2 on one rank: speed, the same numbers as plain transformers, and moving to the host and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from gpu_checks.common import (
    GIB,
    Context,
    Figure,
    Figures,
    checkpoint,
    copy_speeds,
    exact_float32,
    matmul_tflops,
    packed_batch,
    peak_gib,
    random_samples,
    relative_error,
    release_cache,
    start_peak,
    stopwatch,
    used_gib,
)
from gpu_checks.kernels import attentions
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import OptimizerConfig, TrainingConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.types import MiniBatch, TrainSample

LOSS = LossConfig(clip_low=0.2, clip_high=0.28)
loss_of = partial(policy_loss, config=LOSS)
# Adam divides by the gradient's size, so where a gradient is nearly 0 rounding decides which way a weight moves.
# With an eps that is large against rounding an update is nearly proportional to the gradient, and two that differ by
# rounding alone differ by less than this share.
UPDATE_TOLERANCE = 0.05
LARGE_EPS = 1e-3
# Least share of what is moved to the host that the driver then counts as free. What torch's allocator has put into one
# segment with something that stays is not given back: seen were 8 to 10 %.
FREED_SHARE = 0.85
MOST_LEFT_GIB = 2.0  # on the device with everything on the host: what NCCL, cuBLAS and torch's segments hold


def build(path: Path, lr: float = 1e-5, eps: float = 1e-8, **model: Any) -> FsdpBackend:
    """The backend of a recipe, on one rank: NCCL on a GPU, gloo on a CPU."""
    training = TrainingConfig(optimizer=OptimizerConfig(lr=lr, eps=eps))
    backend = build_backend(ModelConfig(path=str(path), **model), training, total_updates=100)
    assert isinstance(backend, FsdpBackend)
    return backend


def parameters(backend: FsdpBackend) -> int:
    """How many there are; tied ones count once."""
    return sum(shape.numel() for shape in backend.parameter_shapes().values())


def logprobs_by_sample(backend: FsdpBackend, batch: MiniBatch) -> dict[int, Tensor]:
    """Response logprobs of the whole mini-batch, by sample index."""
    outputs = backend.logprobs(batch.micro_batches)
    return {
        index: part
        for micro, output in zip(batch.micro_batches, outputs, strict=True)
        for index, part in micro.split_responses(output).items()
    }


def objective(backend: FsdpBackend, samples: Sequence[TrainSample], batch: MiniBatch) -> float:
    """Mean over tokens of advantage times logprob, which updates on the batch must raise."""
    found = logprobs_by_sample(backend, batch)
    total = sum(float((sample.advantages * found[index]).sum()) for index, sample in enumerate(samples))
    return total / batch.denominators.tokens


def fsdp(context: Context) -> Figures:
    """Three updates in bfloat16 with gradient checkpointing: tokens/s, MFU, memory; they must fit the batch better.

    MFU counts 6 floating-point operations per parameter and token (8 with the recomputed forward pass), none for
    attention, and a group's prompt once, against the matrix product that is measured here.
    """
    tflops = matmul_tflops(context.device)
    with stopwatch() as seconds:
        path = checkpoint(context, context.pick("1.5b", "tiny"))
        context.report(matmul_tflops=tflops, checkpoint_s=seconds())
    with stopwatch() as seconds:
        lr = context.pick(1e-5, 1e-3)
        backend = build(path, lr, dtype="bfloat16", gradient_checkpointing=True)
        context.report(build_s=seconds(), parameters=parameters(backend), used_built_gib=used_gib())
    prompt, response = context.pick(((64, 256), (900, 1100)), ((4, 8), (10, 20)))
    samples = random_samples(8, 4, prompt, response, seed=context.seed)
    batch = packed_batch(samples, context.pick(16384, 128))
    tokens = sum(sample.tokens for sample in samples)
    computed = tokens - sum(len(s.prompt_ids) for i, s in enumerate(samples) if i % 4)
    before = objective(backend, samples, batch)
    with stopwatch() as seconds:
        logprobs_by_sample(backend, batch)
        context.report(logprobs_tokens_per_s=tokens / seconds())
    start_peak()
    taken = []
    for _ in range(3):
        with stopwatch() as seconds:
            metrics = values(backend.update(batch, loss_of))
            taken.append(seconds())
        context.report(update_s=taken[-1], grad_norm=metrics["train/grad_norm"])
    second = median(taken[1:])
    mfu = 6e-12 * parameters(backend) * computed / second / tflops
    context.report(tokens=tokens, first_update_s=taken[0], update_s=second, tokens_per_s=tokens / second)
    context.report(mfu=mfu, mfu_with_recomputation=mfu * 4 / 3, peak_gib=peak_gib(), used_gib=used_gib())
    after = objective(backend, samples, batch)
    context.report(objective_before=before, objective_after=after, attention=attention_of(backend))
    assert after > before, f"three updates lowered the objective from {before:.5g} to {after:.5g}"
    return {}


def attention_of(backend: FsdpBackend) -> str:
    """The attention that the model was built with."""
    return str(backend._policy.attention)


def parity(context: Context) -> Figures:
    """Logprobs, gradients of the policy loss and their norm against plain transformers in float32 without TF32.

    The plain model runs one sequence at a time, with eager attention. In bfloat16 only logprobs are compared, with
    each attention there is.
    """
    exact_float32()
    path = checkpoint(context, context.pick("small", "tiny"))
    lengths = context.pick(((20, 60), (50, 300)), ((4, 8), (5, 15)))
    samples = random_samples(4, 3, *lengths, seed=context.seed)
    plain: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    samples, expected, norm = plain_gradients(plain.to(context.device), samples, context.seed)
    batch = packed_batch(samples, context.pick(1024, 48))
    backend = build(path)
    gaps = gaps_to(samples, logprobs_by_sample(backend, batch))
    context.report(gap_max_nats=float(gaps.max()))
    errors = {name: relative_error(g, expected[name]) for name, g in gradients(backend, batch).items()}
    worst = max(errors, key=lambda name: errors[name])
    found = values(backend.update(batch, loss_of))["train/grad_norm"]
    context.report(gradient_error=errors[worst], worst_gradient=worst, tensors=len(errors))
    context.report(grad_norm=found, grad_norm_error=abs(found / norm - 1))
    for name in attentions(context, torch.bfloat16)[0]:
        half = gaps_to(samples, logprobs_by_sample(build(path, dtype="bfloat16", attention=name), batch))
        context.report(**{f"{name} bfloat16 gap_mean_nats": float(half.mean())})
        assert half.mean() < 0.1, f"{name} in bfloat16 is off by {half.mean():.3g} nats on average"
    assert errors.keys() == expected.keys(), f"gradients of {errors.keys() ^ expected.keys()} are missing"
    assert gaps.max() <= 5e-5, f"a logprob is off by {gaps.max():.3g} nats; 5e-5 is rounding"
    assert errors[worst] <= 1e-4, f"the gradient of {worst} is off by {errors[worst]:.3g}; 1e-4 is rounding"
    assert abs(found / norm - 1) <= 1e-5, f"the gradient's norm is {found}, not {norm}"
    return {}


def plain_gradients(
    model: Any, samples: Sequence[TrainSample], seed: int
) -> tuple[list[TrainSample], dict[str, Tensor], float]:
    """The clipped objective by its definition, one sequence at a time, on the device of a plain model.

    Returns the samples with old logprobs that put ratios inside of the clip range and beyond both its ends (and the
    plain model's own logprobs as those of the rollout), the gradients by name, and their norm.
    """
    generator = torch.Generator().manual_seed(seed)
    total, placed = torch.zeros((), device=model.device), []
    for sample in samples:
        ids = torch.cat([sample.prompt_ids, sample.response_ids]).to(model.device)
        logits = model(input_ids=ids[None]).logits[0, len(sample.prompt_ids) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, sample.response_ids.to(model.device)[:, None])[:, 0]
        choice = torch.randint(5, (len(logprobs),), generator=generator)
        away = torch.tensor([-0.5, -0.1, 0.0, 0.1, 0.5])[choice]  # no ratio is near an end of the range
        here = logprobs.detach().cpu()
        old = here - away
        placed.append(sample.replace(old_logprobs=old, rollout_logprobs=here))
        ratio = (logprobs - old.to(model.device)).exp()
        gains = sample.advantages.to(model.device)
        clipped = ratio.clamp(1 - LOSS.clip_low, 1 + LOSS.clip_high)
        total = total - torch.minimum(gains * ratio, gains * clipped).sum()
    (total / sum(len(sample.response_ids) for sample in samples)).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return placed, found, float(torch.nn.utils.get_total_norm(list(found.values())))


def gaps_to(samples: Sequence[TrainSample], found: Mapping[int, Tensor]) -> Tensor:
    """Absolute differences between the rollout logprobs of all samples and those found."""
    return torch.cat([(found[index] - s.rollout_logprobs).abs() for index, s in enumerate(samples)])


def gradients(backend: FsdpBackend, batch: MiniBatch) -> dict[str, Tensor]:
    """Whole gradients of an update that is then not made, by parameter name."""
    caught: dict[str, Tensor] = {}

    class Caught(Exception):
        pass

    def catch() -> float:
        for name, parameter in backend._policy.model.named_parameters():
            gradient: Any = parameter.grad
            caught[name] = gradient.full_tensor()
        raise Caught

    original = backend._clip_gradients
    backend._clip_gradients = catch  # type: ignore[method-assign]
    try:
        backend.update(batch, loss_of)
    except Caught:
        return caught
    finally:
        backend._clip_gradients = original  # type: ignore[method-assign]
        backend._optimizer.zero_grad(set_to_none=True)
    raise AssertionError("the update did not clip its gradients")


# Moving to the host and back.


def offload(context: Context) -> Figures:
    """Optimizer and weights go to host memory and come back; the next update is that of a backend that stayed.

    Memory is the driver's figure. The order is the hybrid engine's: the weights leave once they were streamed.
    """
    deterministic()
    device = context.device
    context.report(**copy_speeds(device, context.pick(1.0, 0.01)))
    path = checkpoint(context, context.pick("0.5b", "tiny"))
    lengths = context.pick(((32, 64), (200, 300)), ((4, 8), (10, 20)))
    batch = packed_batch(random_samples(8, 4, *lengths, seed=context.seed), context.pick(8192, 128))
    release_cache()
    idle = used_gib()
    backend = build(path, 1e-3, LARGE_EPS, dtype="bfloat16")
    backend.update(batch, loss_of)
    start, moments = copied(backend), optimizer_state(backend)
    start, moments = (
        on_host(start),
        on_host(moments),
    )  # copies on the device would share segments with what moves
    for number in range(2):  # the first time pins host memory, which is slow
        move_and_measure(context, backend, idle, number)
    for before, after in ((start, copied(backend)), (moments, optimizer_state(backend))):
        changed = [name for name, tensor in before.items() if not torch.equal(after[name].cpu(), tensor)]
        assert not changed, f"came back changed: {', '.join(changed[:5])}"
    del moments
    backend.update(batch, loss_of)
    moved = copied(backend)
    del backend
    release_cache()
    stayed = build(path, 1e-3, LARGE_EPS, dtype="bfloat16")
    stayed.update(batch, loss_of)
    stayed.update(batch, loss_of)
    return compare_updates(start, on_host(moved), on_host(copied(stayed)))


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in host memory."""
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def optimizer_state(backend: FsdpBackend) -> dict[str, Tensor]:
    """Copies of the optimizer's running means and squares, on the device."""
    return {
        f"{name} of parameter {index}": value.to_local().clone()
        for index, state in enumerate(backend._optimizer.state.values())
        for name, value in state.items()
        if value.ndim > 0
    }


def move_and_measure(context: Context, backend: FsdpBackend, idle_gib: float, number: int) -> None:
    """Report memory and GB/s of each move. ``idle_gib``: in use without the backend. Raises AssertionError.

    number: how often everything was moved before; a part of the figures' names.
    """

    def report(**figures: Figure) -> None:
        context.report(**{f"move{number} {name}": figure for name, figure in figures.items()})

    weights = 4e-9 * parameters(backend)  # GB, in float32
    release_cache()
    used = {"start": used_gib()}
    with stopwatch() as seconds:
        backend.offload_optimizer()
        report(offload_optimizer_gb_per_s=2 * weights / seconds())
    used["without_optimizer"] = used_gib()
    for _ in backend.full_weights():  # what a sync does; it also frees what was gathered for the last pass
        pass
    with stopwatch() as seconds:
        backend.offload_weights()
        report(offload_weights_gb_per_s=weights / seconds())
    used["without_both"] = used_gib()
    with stopwatch() as seconds:
        backend.reload()
        report(reload_gb_per_s=3 * weights / seconds())
    used["reloaded"] = used_gib()
    state = 1e9 * weights / GIB
    report(**{f"used_{name}_gib": figure for name, figure in used.items()})
    report(idle_gib=idle_gib, weights_gib=state)
    if context.device.type == "cpu":
        return
    freed, left = used["start"] - used["without_optimizer"], used["without_both"] - idle_gib
    assert freed > FREED_SHARE * 2 * state, (
        f"the optimizer's {2 * state:.1f} GiB went, and {freed:.1f} were freed"
    )
    assert left < MOST_LEFT_GIB, f"with everything on the host {left:.1f} GiB are left on the device"
    assert used["reloaded"] < used["start"] + 1, f"after reloading there is more in use than before: {used}"


def resume(context: Context) -> Figures:
    """Checkpoints written while the trainer is on the host, as a run writes them, resume with the same next update.

    With the optimizer on the host the backend saves as it is; with the weights there too it comes back first.
    """
    deterministic()
    path = checkpoint(context, context.pick("small", "tiny"))
    lengths = context.pick(((20, 60), (50, 300)), ((4, 8), (10, 20)))
    batch = packed_batch(random_samples(8, 4, *lengths, seed=context.seed), context.pick(4096, 128))
    folders = [context.folder / name for name in ("optimizer_on_host", "all_on_host")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    backend = build(path, 1e-3, dtype="bfloat16")
    backend.update(batch, loss_of)
    start = copied(backend)
    backend.offload_optimizer()
    backend.save(folders[0])
    backend.offload_weights()
    backend.reload()
    backend.save(folders[1])
    backend.update(batch, loss_of)
    expected = copied(backend)
    for folder in folders:
        resumed = build(path, 1e-3, dtype="bfloat16")
        resumed.load(folder)
        for name, weight in copied(resumed).items():
            assert torch.equal(weight, start[name]), f"{folder.name}: {name} is not what was saved"
        resumed.update(batch, loss_of)
        figures = compare_updates(start, copied(resumed), expected)
        context.report(**{f"{folder.name} {name}": figure for name, figure in figures.items()})
    return {}


def deterministic() -> None:
    """The same bits every time, as far as PyTorch's kernels can; to be called before anything runs on the GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def copied(backend: FsdpBackend) -> dict[str, Tensor]:
    """All weights as they are now, on the device."""
    return {name: tensor.detach().clone() for name, tensor in backend.full_weights()}


def compare_updates(
    start: Mapping[str, Tensor], found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Figures:
    """Whether two updates from ``start`` gave the same weights: to the bit, or how much of the update differs."""
    equal = all(torch.equal(found[name], weight) for name, weight in expected.items())
    apart = sum(float((found[name] - weight).double().square().sum()) for name, weight in expected.items())
    moved = sum(float((start[name] - weight).double().square().sum()) for name, weight in expected.items())
    assert moved > 0, "the update changed nothing"
    share = (apart / moved) ** 0.5
    assert share <= UPDATE_TOLERANCE, f"{share:.3g} of the update differs; {UPDATE_TOLERANCE} may be rounding"
    return {"equal_to_the_bit": equal, "update_error": share}
