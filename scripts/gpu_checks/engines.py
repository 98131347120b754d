"""The hybrid engine with the embedded engine and with vLLM: memory, seconds, and agreement of the two engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu_checks.common import Context, Figures, Skip, copy_speeds, require
from gpu_checks.pair import (
    Claims,
    Pair,
    build_pair,
    generate,
    judge_gaps,
    judge_offload,
    measure_round,
    measure_syncs,
    middle_matrix,
    report_gaps,
    same_share,
    settled_gib,
    training_batch,
)
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.hybrid.engine import HybridEngine, Offload
from reasoner_rl.hybrid.sync_check import WeightSyncError
from reasoner_rl.metrics import values

VLLM_SHARE = 0.3  # of the GPU's memory
MEMORY_BACK = 0.9  # least share of what vLLM holds that it gives back asleep
SAME_SHARE = 0.9  # least share of responses that are the same when they are drawn again
# With 9 updates of warm-up the learning rate goes from 1e-6 to 1e-5: what a run of reinforcement learning has.
RATES: dict[str, Any] = {"lr": 1e-5, "warmup_updates": 9}


@dataclass(frozen=True)
class Round:
    """How one round of publishing, generating and training is done."""

    offload: Offload
    sleep_level: int | None = None  # of vLLM; the embedded engine has none

    @property
    def label(self) -> str:
        """What the names of its figures begin with."""
        return self.offload if self.sleep_level is None else f"sleep{self.sleep_level}_{self.offload}"


def hybrid(context: Context) -> Figures:
    """The embedded engine beside FSDP2: gaps of syncs, rounds under each offload policy, faults that must be found."""
    engine = HfEngineConfig(max_batch_sequences=64)
    pair = build_pair(context, context.pick("0.5b", "tiny"), "bfloat16", engine, **RATES)
    claims = Claims()
    measure(pair, claims, context.pick(48, 12), [Round("none"), Round("optimizer"), Round("all")])
    check_tensors(pair, claims)
    check_faults(pair, claims)
    context.report(**copy_speeds(context.device, context.pick(1.0, 0.01)))  # to hold load_gib_per_s against
    claims.conclude()
    return {}


def vllm(context: Context) -> Figures:
    """vLLM without CUDA graphs beside FSDP2: sleep, gaps of syncs, rounds, speed, aborted work, faults."""
    claims, pair = start_vllm(context, "bfloat16", **RATES)
    rounds = [Round("none", 2), Round("optimizer", 2), Round("all", 2), Round("all", 1)]
    measure(pair, claims, context.pick(64, 12), rounds)
    measure_speed(pair, 64, 256)
    check_repetition(pair, claims)
    check_tensors(pair, claims)
    check_faults(pair, claims)
    claims.conclude()
    return {}


def vllm_graphs(context: Context) -> Figures:
    """vLLM with CUDA graphs, which must compute with weights that were loaded after the graphs were captured."""
    if context.device.type != "cuda":
        raise Skip("CUDA graphs need a GPU")
    claims, pair = start_vllm(context, "bfloat16", eager=False, lr=3e-4)
    requests, sampling = pair.requests(8, 8), SamplingConfig(max_response_tokens=64)
    for number in range(3):
        measure_round(pair, pair.hybrid(), f"round{number}", requests, sampling)
    report_gaps(pair)
    judge_gaps(pair, claims)
    least = min(update.moved for update in pair.updates)
    claims.require(
        least > 3 * max(pair.token_gaps[1:]),
        f"an update moves logprobs by {least:.3g} nats, too little to tell old weights from rounding",
    )
    measure_speed(pair, 64, 256)
    check_repetition(pair, claims)
    claims.conclude()
    return {}


def vllm_float32(context: Context) -> Figures:
    """vLLM in float32, where both engines must agree much more closely."""
    claims, pair = start_vllm(context, "float32", **RATES)
    requests = pair.requests(context.pick(8, 2), 4)
    sampling = SamplingConfig(max_response_tokens=context.pick(32, 12))
    for number in range(3):
        measure_round(pair, pair.hybrid(), f"round{number}", requests, sampling)
    report_gaps(pair)
    judge_gaps(pair, claims)
    claims.conclude()
    return {}


def measure(pair: Pair, claims: Claims, response_tokens: int, rounds: Sequence[Round]) -> None:
    """The gaps of six syncs with an update between, then the rounds, the first three of them none, optimizer, all."""
    requests = pair.requests(pair.context.pick(8, 2), pair.context.pick(8, 4))
    sampling = SamplingConfig(max_response_tokens=response_tokens)
    measure_syncs(pair, requests, sampling, 6)
    figures = []
    for turn in rounds:
        set_sleep_level(pair, turn.sleep_level or 2)
        figures.append(measure_round(pair, pair.hybrid(turn.offload), turn.label, requests, sampling))
        report_gaps(pair)
    set_sleep_level(pair, 2)
    judge_gaps(pair, claims)
    judge_offload(pair, claims, *figures[:3])


def start_vllm(context: Context, dtype: Any, *, eager: bool = True, **rates: Any) -> tuple[Claims, Pair]:
    """Build the pair, put vLLM to sleep at once, and measure the memory that it gives back."""
    require("vllm")
    engine = VllmEngineConfig(
        gpu_memory_utilization=VLLM_SHARE,
        enforce_eager=eager,
        max_batch_sequences=context.pick(256, 16),
        max_batched_tokens=context.pick(8192, 512),
    )
    claims, pair = Claims(), build_pair(context, context.pick("0.5b", "tiny"), dtype, engine, **rates)
    check_sleep(pair, claims)
    return claims, pair


def set_sleep_level(pair: Pair, level: int) -> None:
    """Choose vLLM's level of sleep. Starting vLLM once more for the other level would take half a minute."""
    engine: Any = pair.rollout.rollout
    if getattr(engine, "_sleep_level", None) is not None:  # vLLM, on a GPU
        engine._sleep_level = level


def check_sleep(pair: Pair, claims: Claims) -> None:
    """Asleep, vLLM holds less than a tenth of what it holds awake, by the driver's figures."""
    awake = settled_gib()
    pair.hybrid()  # begins with the rollout engine asleep
    held, kept = awake - pair.trainer_gib, settled_gib() - pair.trainer_gib
    pair.context.report(vllm_held_gib=held, vllm_kept_asleep_gib=kept)
    if pair.context.device.type == "cuda":
        claims.require(
            kept < (1 - MEMORY_BACK) * held,
            f"asleep vLLM keeps {kept:.2f} GiB of {held:.2f}: memory is not given back",
        )


def measure_speed(pair: Pair, *sequences: int) -> None:
    """Tokens per second with so many responses in flight."""
    engine = pair.hybrid()
    pair.publish(engine)
    for count in sequences:
        requests = pair.requests(8, pair.context.pick(count // 8, 1))
        sampling = SamplingConfig(max_response_tokens=pair.context.pick(128, 8))
        pair.context.report(**{f"sequences_{count} tokens_per_s": generate(engine, requests, sampling)[1]})
    engine.take_turn("policy")


def check_repetition(pair: Pair, claims: Claims) -> None:
    """The same seeds give the same tokens, also after work that was aborted halfway. Weights are equal throughout."""
    engine = pair.hybrid()
    requests = pair.requests(8, pair.context.pick(8, 1))
    sampling = SamplingConfig(max_response_tokens=96)  # more than a turn of 64 steps
    pair.publish(engine)
    first, _ = generate(engine, requests, sampling)
    pair.publish(engine)
    again, _ = generate(engine, requests, sampling)
    engine.submit(requests, sampling)
    engine.step()
    engine.cancel()
    pair.publish(engine)
    after, _ = generate(engine, requests, sampling)
    engine.take_turn("policy")
    for name, groups in {"again": again, "after_abort": after}.items():
        share = same_share(first, groups)
        pair.context.report(**{f"same_{name}_share": share})
        claims.require(share >= SAME_SHARE, f"only {share:.0%} of the responses are the same {name}")


def check_tensors(pair: Pair, claims: Claims) -> None:
    """With sync_check: tensors a correct sync passes, and one wrong tensor is named."""
    engine = pair.hybrid(check="tensors")
    pair.context.report(tensors_publish_s=pair.publish(engine)[1])
    engine.take_turn("policy")
    judge_wrong_tensor(pair, engine, claims)


def check_faults(pair: Pair, claims: Claims) -> None:
    """What the logprobs of the check's text say of one wrong tensor, which must be found, and of stale weights.

    Stale weights are reported and not judged: in bfloat16 one small update changes less than rounding does.
    """
    engine = pair.hybrid(tolerance=None)
    set_sleep_level(pair, 1)  # which keeps the weights that the stale sync will find
    pair.publish(engine)  # learns the limit
    requests = pair.requests(2, 2)
    batch = training_batch(requests, generate(engine, requests, SamplingConfig(max_response_tokens=12))[0])
    engine.take_turn("policy")
    judge_wrong_tensor(pair, engine, claims)
    assert engine.check is not None
    found = values(engine.check.metrics())
    pair.context.report(
        wrong_tensor_gap_nats=found["sync/check_gap"], learned_limit_nats=found["sync/check_limit"]
    )
    engine = pair.hybrid()
    pair.publish(engine)
    engine.take_turn("policy")
    pair.update(engine, batch)
    pair.rollout.stale = True
    stale = values(engine.publish(pair.version + 1))["sync/check_gap"]
    pair.rollout.stale = False
    engine.take_turn("policy")
    set_sleep_level(pair, 2)
    last = pair.updates[-1]
    pair.context.report(stale_gap_nats=stale, stale_rate=last.rate, stale_moves_nats=last.moved)


def judge_wrong_tensor(pair: Pair, engine: HybridEngine, claims: Claims) -> None:
    """A sync in which one matrix has its rows in reverse order is refused, and the matrix is named."""
    pair.rollout.wrong = name = middle_matrix(pair.backend)
    message = "nothing"
    try:
        engine.publish(pair.version + 1)
    except WeightSyncError as error:
        message = str(error)
    pair.rollout.wrong = None
    pair.rollout.sleep()
    claims.require(message.endswith(f"differ: {name}"), f"{name} was wrong, and the sync said: {message}")
