"""A trainer and a rollout engine that take turns under the hybrid engine, and the work that both are measured on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Literal, cast

import torch
from torch import Tensor

from gpu_checks.common import GIB, Context, Figures, checkpoint, packed_batch, stopwatch, used_gib
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import EngineConfig, SamplingConfig
from reasoner_rl.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig
from reasoner_rl.distributed.building import build_backend, build_engine
from reasoner_rl.hybrid.engine import HybridEngine, Offload
from reasoner_rl.hybrid.sync_check import FACTOR, FLOOR, SyncCheck, SyncCheckKind, check_token_ids
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import values
from reasoner_rl.rollout.engine import GenerationRequest, RolloutEngine
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.training.backend import TrainBackend
from reasoner_rl.types import MiniBatch, Rollout, TrainSample

Dtype = Literal["float32", "bfloat16"]
Groups = list[list[Rollout]]

CONTEXT_TOKENS = 512
MICRO_BATCH_TOKENS = 8192
GENERATION_SEED = 7
# Largest mean gap between the two engines' logprobs of sampled tokens, and of the check's text in float32, in nats.
# What rounding in bfloat16 makes of it depends on the model; one wrong matrix of these models makes more than 1.
TOKEN_GAP = {"bfloat16": 0.15, "float32": 2e-3}
PROOF_GAP_FLOAT32 = 1e-3


class Claims:
    """Collects what does not hold, so that a check measures everything before it fails."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def require(self, holds: bool, otherwise: str) -> None:
        """Note ``otherwise`` unless the claim holds."""
        if not holds:
            self.broken.append(otherwise)

    def conclude(self) -> None:
        """Raise AssertionError with everything that does not hold."""
        assert not self.broken, "; ".join(self.broken)


class Watched:
    """A rollout engine whose memory is read after each change of state, and whose loads can be made to go wrong."""

    def __init__(self, rollout: RolloutEngine) -> None:
        self.rollout = rollout
        self.used: dict[str, float] = {}  # GiB of the device in use, by the state that the engine reached
        self.wrong: str | None = None  # the tensor that is loaded with its rows in reverse order
        self.stale = False  # whether loading is left out, and the weights stay what they were

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rollout, name)

    def sleep(self) -> None:
        """See `RolloutEngine.sleep`."""
        self.rollout.sleep()
        self.used["asleep"] = used_gib()

    def wake_weights(self) -> None:
        """See `RolloutEngine.wake_weights`."""
        self.rollout.wake_weights()
        self.used["weights"] = used_gib()

    def wake_cache(self) -> None:
        """See `RolloutEngine.wake_cache`."""
        self.rollout.wake_cache()
        self.used["awake"] = used_gib()

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutEngine.load_weights`."""
        if self.stale:
            self.rollout.use_shared_weights(version)
        else:
            self.rollout.load_weights(self._spoiled(tensors), version)

    def _spoiled(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            yield name, tensor.flip(0) if name == self.wrong else tensor


@dataclass(frozen=True)
class Update:
    """What one optimizer update did."""

    rate: float  # learning rate
    gradient_norm: float
    moved: float  # mean change of the logprobs of the check's text, in nats: the gap of a sync that missed the update


@dataclass
class Pair:
    """Both engines, with what they have shown so far. Build it with `build_pair`."""

    context: Context
    backend: TrainBackend
    rollout: Watched
    check_ids: list[int]
    dtype: Dtype
    trainer_gib: float  # in use before the rollout engine was built
    version: int = 0
    updates: list[Update] = field(default_factory=list)
    check_gaps: list[float] = field(default_factory=list)  # nats, of every sync that was checked by logprobs
    token_gaps: list[float] = field(default_factory=list)  # nats, the mean of each batch

    def hybrid(
        self, offload: Offload = "none", check: SyncCheckKind = "logprobs", tolerance: float | None = math.inf
    ) -> HybridEngine:
        """A hybrid engine in the train phase; by default it accepts whatever gap there is, which is to be measured."""
        rollout = cast(RolloutEngine, self.rollout)
        return HybridEngine(
            {"policy": self.backend},
            rollout,
            SyncCheck(check, self.check_ids, tolerance),
            {"policy": offload},
        )

    def requests(self, prompts: int, samples: int) -> list[GenerationRequest]:
        """The same requests at every call: prompts of 20 to 60 random tokens."""
        draw = random.Random(self.context.seed)
        return [
            GenerationRequest(
                tuple(draw.randrange(2, 100) for _ in range(draw.randint(20, 60))),
                samples,
                seed=GENERATION_SEED + number,
                number=number,
            )
            for number in range(prompts)
        ]

    def publish(self, hybrid: HybridEngine) -> tuple[dict[str, float], float]:
        """Publish the trainer's weights as the next version; return the metrics and the seconds."""
        self.version += 1
        with stopwatch() as seconds:
            synced = values(hybrid.publish(self.version))
        if "sync/check_gap" in synced:
            self.check_gaps.append(synced["sync/check_gap"])
        return synced, seconds()

    def compare(self, hybrid: HybridEngine, batch: MiniBatch) -> Figures:
        """How far the trainer's logprobs of the batch are from those of generation, token by token, in nats."""
        logprobs = hybrid.take_turn("policy").logprobs(batch.micro_batches)
        generated = [micro.rollout_logprobs for micro in batch.micro_batches]
        gaps = (torch.cat(logprobs) - torch.cat(generated)).abs()
        self.token_gaps.append(float(gaps.mean()))
        return {
            "gap_mean_nats": float(gaps.mean()),
            "gap_p99_nats": float(gaps.quantile(0.99)),
            "gap_max_nats": float(gaps.max()),
        }

    def update(self, hybrid: HybridEngine, batch: MiniBatch) -> None:
        """One optimizer update, of which it is noted what it changes."""
        check = SyncCheck("logprobs", self.check_ids, math.inf)
        before = check.expected(self.backend)
        done = values(hybrid.take_turn("policy").update(batch, partial(policy_loss, config=LossConfig())))
        moved = mean_gap(before, check.expected(self.backend))
        self.updates.append(Update(done["train/lr"], done["train/grad_norm"], moved))


def build_pair(
    context: Context, shape: str, dtype: Dtype, engine: EngineConfig, *, lr: float, warmup_updates: int = 0
) -> Pair:
    """Build the trainer with FSDP2, then the rollout engine as a training run does; reports seconds and memory.

    warmup_updates: over which the learning rate rises from ``lr / (warmup_updates + 1)`` to ``lr``.
    """
    print(f"{context.name} on {context.device}: {shape}, {dtype}, {engine}", flush=True)
    model = ModelConfig(path=str(checkpoint(context, shape)), dtype=dtype)
    training = TrainingConfig(
        optimizer=OptimizerConfig(lr=lr), schedule=ScheduleConfig(warmup_steps=warmup_updates)
    )
    backend = build_backend(model, training, total_updates=10**6)
    tokenizer = load_tokenizer(model)
    context.report(trainer_gib=(trainer_gib := settled_gib()))
    with stopwatch() as seconds:
        rollout = build_engine(
            model, engine, tokenizer, context_tokens=CONTEXT_TOKENS, seed=context.seed, dummy_weights=True
        )
    context.report(construct_s=seconds(), constructed_gib=settled_gib())
    return Pair(context, backend, Watched(rollout), check_token_ids(tokenizer), dtype, trainer_gib)


def settled_gib() -> float:
    """GiB of the device in use once torch has given its cached blocks back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return used_gib()


def generate(
    hybrid: HybridEngine, requests: Sequence[GenerationRequest], sampling: SamplingConfig
) -> tuple[Groups, float]:
    """The responses, and tokens per second."""
    with stopwatch() as seconds:
        groups = hybrid.generate(requests, sampling)
    return groups, sum(len(rollout.token_ids) for group in groups for rollout in group) / seconds()


def training_batch(requests: Sequence[GenerationRequest], groups: Groups) -> MiniBatch:
    """One optimizer update of all responses, with advantages of 1 and -1 in turn."""
    samples = [
        TrainSample(
            prompt_ids=torch.tensor(request.prompt_ids),
            response_ids=torch.tensor(rollout.token_ids),
            loss_mask=torch.ones(len(rollout.token_ids), dtype=torch.bool),
            advantages=torch.full((len(rollout.token_ids),), (-1.0) ** number),
            rollout_logprobs=torch.tensor(rollout.logprobs),
        )
        for request, group in zip(requests, groups, strict=True)
        for number, rollout in enumerate(group)
    ]
    return packed_batch(samples, MICRO_BATCH_TOKENS)


def same_share(first: Groups, second: Groups) -> float:
    """The share of responses that have the same tokens."""
    pairs = [
        (one.token_ids, two.token_ids)
        for ones, twos in zip(first, second, strict=True)
        for one, two in zip(ones, twos, strict=True)
    ]
    return fmean(one == two for one, two in pairs)


def mean_gap(first: Sequence[float], second: Sequence[float]) -> float:
    """Mean absolute difference."""
    return fmean(abs(one - two) for one, two in zip(first, second, strict=True))


def measure_round(
    pair: Pair,
    hybrid: HybridEngine,
    label: str,
    requests: Sequence[GenerationRequest],
    sampling: SamplingConfig,
) -> Figures:
    """Publish, generate, go back to training, compare, update; each figure's name begins with ``label``."""
    synced, publish_s = pair.publish(hybrid)
    groups, speed = generate(hybrid, requests, sampling)
    with stopwatch() as seconds:
        hybrid.take_turn("policy")
    switch_s, training_gib = seconds(), used_gib()
    batch = training_batch(requests, groups)
    compared = pair.compare(hybrid, batch)
    pair.update(hybrid, batch)
    figures: Figures = {
        "publish_s": publish_s,
        "load_s": synced.get("time/sync_load"),
        "load_gib_per_s": synced.get("speed/sync_gib_per_second"),
        "check_gap_nats": synced.get("sync/check_gap"),
        **compared,
        "tokens_per_s": speed,
        "switch_s": switch_s,
        **{f"{state}_gib": gib for state, gib in pair.rollout.used.items()},
        "training_gib": training_gib,
        "updated_gib": used_gib(),
    }
    named: Figures = {f"{label} {name}": value for name, value in figures.items() if value is not None}
    pair.context.report(**named)
    return named


def measure_syncs(
    pair: Pair, requests: Sequence[GenerationRequest], sampling: SamplingConfig, count: int
) -> None:
    """More syncs with an update between, only for the distribution of their gaps."""
    hybrid = pair.hybrid()
    pair.publish(hybrid)
    batch = training_batch(requests, generate(hybrid, requests, sampling)[0])
    for _ in range(count):
        hybrid.take_turn("policy")
        pair.update(hybrid, batch)
        pair.publish(hybrid)
    hybrid.take_turn("policy")


def report_gaps(pair: Pair) -> None:
    """Report the gaps of all syncs and batches so far, and what each update changed."""
    gaps = pair.check_gaps
    pair.context.report(
        syncs=len(gaps),
        check_gap_first_nats=gaps[0],
        check_gap_min_nats=min(gaps),
        check_gap_max_nats=max(gaps),
        check_gap_limit_nats=check_limit(pair),
        token_gap_worst_mean_nats=max(pair.token_gaps),
        check_gap_all_nats=listed(gaps),
        update_rates=listed(update.rate for update in pair.updates),
        update_moves_nats=listed(update.moved for update in pair.updates),
    )


def check_limit(pair: Pair) -> float:
    """What a training run would allow for the check's text, in nats."""
    return max(FLOOR, FACTOR * pair.check_gaps[0]) if pair.dtype == "bfloat16" else PROOF_GAP_FLOAT32


def judge_gaps(pair: Pair, claims: Claims) -> None:
    """Both engines agreed after every sync, and every update changed something."""
    worst, limit = max(pair.check_gaps), check_limit(pair)
    claims.require(
        worst <= limit, f"a sync of equal weights has a gap of {worst:.3g} nats, above {limit:.3g}"
    )
    worst, limit = max(pair.token_gaps), TOKEN_GAP[pair.dtype]
    claims.require(
        worst <= limit, f"the engines' logprobs differ by {worst:.3g} nats on average, above {limit:g}"
    )
    for number, update in enumerate(pair.updates):
        alive = math.isfinite(update.gradient_norm) and update.gradient_norm > 0 and update.moved > 0
        claims.require(alive, f"update {number} changed nothing: {update}")


def judge_offload(pair: Pair, claims: Claims, none: Figures, optimizer: Figures, everything: Figures) -> None:
    """What is moved to host memory is free on the device while the rollout engine is awake, by the driver's figures.

    The figures are those of `measure_round` under each offload policy, with an optimizer that has its state.
    """
    parameters = sum(tensor.numel() for _, tensor in pair.backend.full_weights())
    awake = [
        next(float(value or 0) for name, value in figures.items() if name.endswith(" awake_gib"))
        for figures in (none, optimizer, everything)
    ]
    # Bytes per parameter: two moments in float32, and with them the weights.
    for name, used, size in (("optimizer", awake[1], 8), ("all", awake[2], 12)):
        freed, moved = awake[0] - used, size * parameters / GIB
        pair.context.report(**{f"offload_{name} moved_gib": moved, f"offload_{name} freed_gib": freed})
        if pair.context.device.type == "cuda":
            claims.require(
                freed > 0.9 * moved, f"offload {name} frees {freed:.2f} GiB and should free {moved:.2f}"
            )


def listed(numbers: Iterable[float]) -> str:
    """Numbers with three digits, in one text."""
    return " ".join(f"{number:.3g}" for number in numbers)


def middle_matrix(backend: TrainBackend) -> str:
    """The name of a matrix in the middle of the model, of those that vLLM fuses with another."""
    names = [name for name, _ in backend.full_weights() if name.endswith("mlp.up_proj.weight")]
    return names[len(names) // 2]
