#!/usr/bin/env python3
"""Where the seconds of a recipe's training steps go, beside what the machine's matrix products and copies allow.

    python scripts/bench/profile_step.py quickstart model.path=models/tiny [--steps 3] [--json FILE]
    python scripts/bench/profile_step.py RECIPE run.profile=2 --out runs/profile      with a Chrome trace of step 2

Steps are made in this process by the trainer itself, after one that is not counted; nothing is evaluated or saved.
Parts, whose seconds do not overlap:
  prefill    prompts read by the embedded engine           scoring    verifiers, the waiting for them included
  decoding   the rest of generation, sampling included     logprobs   forward passes without gradients
  forward    forward passes and losses of updates          sync       weights to the engine, and its check
  backward   their gradients                               data       samples, their division and packing
  optimizer  clipping and AdamW                            driver     all the rest: advantages, records, metrics

FLOPs are those of the matrix products and of causal attention (reasoner_rl/plan/work.py), for the tokens that are
computed: a prompt that several responses share counts once, and what is computed again does not count. Bytes are the
least that must move: weights once per pass, keys and values once per decoded token, of gradients and optimizer state
what an update reads and writes, of weights what a sync reads and writes; activations are not counted.

The ceiling of matrix products is measured in the same process, after the steps, for the shapes of the linear layers of
the model's decoder layers at the mean number of rows of the part, and that of copies with 64 MiB, reading and
writing: medians of 7. ``bound`` is the larger of both shares. With --clock cpu one thread is used, and its CPU time
counts, so that other processes on the machine change little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_time import machine

import reasoner_rl.distributed.models as model_groups
import reasoner_rl.sources.online as online_source
from reasoner_rl.batching.plan import Share
from reasoner_rl.cli.common import print_table
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import EvalConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.rollout import HfEngineConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.observability.summary import write_json
from reasoner_rl.plan.architecture import Architecture, read_architecture
from reasoner_rl.plan.cache import kv_bytes
from reasoner_rl.plan.work import forward_flops
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.decoding import Decoder
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.training.policy import Policy
from reasoner_rl.training.shared_prompts import SharedPrompts
from reasoner_rl.types import MicroBatch

PARTS = (
    "prefill",
    "decoding",
    "scoring",
    "logprobs",
    "forward",
    "backward",
    "optimizer",
    "sync",
    "data",
    "driver",
)
FLOAT32 = 4
# Bytes of an update per parameter: the norm reads gradients, clipping reads and writes them, AdamW reads weights,
# gradients and both moments and writes all but the gradients.
UPDATE_BYTES = (1 + 2 + 4 + 3) * FLOAT32
Shape = tuple[int, int, int]  # [m, k] @ [k, n]


@dataclass
class Part:
    """What one part of the counted steps took and did."""

    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    rows: list[int] = field(default_factory=list)  # of each pass through the model


class Meter:
    """Adds up parts, each without those inside it; what is outside of a step does not count."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._inside, self._since = clock, list[str](), 0.0
        self.parts = {name: Part() for name in PARTS}
        self.steps = 0

    @property
    def counts(self) -> bool:
        """Whether a step is being made."""
        return bool(self._inside)

    @property
    def current(self) -> Part:
        """The part that seconds go to now."""
        return self.parts[self._inside[-1]]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as a part, except inside a sync, which is one part with its check."""
        self._charge()
        self._inside.append("sync" if "sync" in self._inside else name)
        try:
            yield
        finally:
            self._charge()
            self._inside.pop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the block count as nothing."""
        self._charge()
        yield
        self._since = self._clock()

    def _charge(self) -> None:
        now = self._clock()
        if self._inside:
            self.current.seconds += now - self._since
        self._since = now

    def begin_step(self) -> None:
        """The first step is forgotten as the second begins."""
        if self.steps == 1:
            self.parts = {name: Part() for name in PARTS}
        self.steps += 1


def measure(
    meter: Meter, owner: Any, name: str, part: str | None, count: Callable[..., None] = lambda *_: None
) -> None:
    """Let a function or method count as a part, or where it is None as that which calls it.

    count: called with what the function returned and its positional arguments.
    """
    original = getattr(owner, name)

    def measured(*arguments: Any, **options: Any) -> Any:
        if not meter.counts:
            return original(*arguments, **options)
        with meter.part(part) if part else nullcontext():
            result = original(*arguments, **options)
            with meter.paused():
                count(result, *arguments)
        return result

    setattr(owner, name, measured)


class Counts:
    """How many tokens, FLOPs and bytes the calls of the product stand for, with a model's sizes."""

    def __init__(self, meter: Meter, architecture: Architecture) -> None:
        self._meter, self._sizes = meter, architecture
        self._weights = architecture.parameters * FLOAT32
        self._head = architecture.vocabulary * architecture.hidden if architecture.has_head else 0

    def _add(self, tokens: int, flops: float, moved: float, rows: int | None = None) -> None:
        part = self._meter.current
        part.tokens, part.flops, part.bytes = part.tokens + tokens, part.flops + flops, part.bytes + moved
        if rows is not None:
            part.rows.append(rows)

    def _pass(self, lengths: Sequence[int], computed: int, predicted: int) -> float:
        """FLOPs of a pass over sequences, of whose tokens ``computed`` are computed and ``predicted`` meet the head."""
        products = (
            2 * (self._sizes.multiplied_parameters - self._head) * computed + 2 * self._head * predicted
        )
        at_one = forward_flops(self._sizes, 1) - forward_flops(self._sizes, 0)  # per token looked at
        return products + at_one * sum(length * length / 2 for length in lengths)

    def prefill(self, _: Any, decoder: Decoder, prompts: Sequence[Sequence[int]]) -> None:
        """`Decoder._prefill`."""
        lengths = [len(prompt) for prompt in prompts]
        flops = self._pass(lengths, sum(lengths), len(lengths))
        self._add(sum(lengths), flops, self._weights, sum(lengths))

    def decode(self, _: Any, decoder: Decoder, tokens: torch.Tensor) -> None:
        """`Decoder.step`: one token per row."""
        contexts = decoder._contexts
        columns, rows = contexts.cache.get_seq_length(), len(tokens)
        seen = columns - float(contexts.padding.float().mean())
        moved = self._weights + rows * columns * kv_bytes(self._sizes, FLOAT32)
        self._add(0, rows * forward_flops(self._sizes, seen), moved, rows)

    def generated(self, output: Any, *_: Any) -> None:
        """`HfRolloutEngine.step`."""
        self._add(output.tokens, 0.0, 0.0)

    def forward(self, _: Any, policy: Any, batch: MicroBatch, *rest: Any) -> None:
        """A pass of the policy, whose backward pass takes twice the FLOPs."""
        shared = SharedPrompts.of(batch)
        computed = len(batch.input_ids) if shared is None else len(shared.kept)
        flops = self._pass(batch.cu_seqlens.diff().tolist(), computed, len(batch.targets))
        self._add(computed, flops, self._weights, computed)
        if self._meter.current is self._meter.parts["forward"]:
            back = self._meter.parts["backward"]
            back.tokens, back.flops = back.tokens + computed, back.flops + 2 * flops
            back.bytes += 2 * self._weights
            back.rows.append(computed)

    def optimizer(self, *_: Any) -> None:
        """`AdamW.step`."""
        self._add(0, 0.0, self._sizes.parameters * UPDATE_BYTES)

    def sync(self, *_: Any) -> None:
        """`HybridEngine.publish`."""
        self._add(0, 0.0, 2 * self._weights)

    def scored(self, _: Any, runner: Any, tasks: Sequence[Any], *rest: Any) -> None:
        """`RewardRunner.score`."""
        self._add(sum(task.response_tokens for task in tasks), 0.0, 0.0)


def measure_parts(meter: Meter, counts: Counts) -> None:
    """Let the product's own functions count."""
    measure(meter, Decoder, "_prefill", "prefill", counts.prefill)
    measure(meter, Decoder, "step", None, counts.decode)
    measure(meter, HfRolloutEngine, "step", "decoding", counts.generated)
    measure(meter, RewardRunner, "score", "scoring", counts.scored)
    for method in ("logprobs", "entropies", "values"):
        measure(meter, FsdpBackend, method, "logprobs")
    measure(meter, Policy, "__call__", None, counts.forward)
    measure(meter, FsdpBackend, "update", "forward")
    measure(meter, torch.Tensor, "backward", "backward")
    measure(meter, FsdpBackend, "_clip_gradients", "optimizer")
    measure(meter, torch.optim.AdamW, "step", "optimizer", counts.optimizer)
    measure(meter, HybridEngine, "publish", "sync", counts.sync)
    for owner, function in (
        (model_groups, "plan_updates"),
        (model_groups, "plan_shares"),
        (online_source, "samples_of"),
        (Share, "pack"),
    ):
        measure(meter, owner, function, "data")
    made = Trainer.step

    def step(self: Trainer) -> None:
        meter.begin_step()
        with meter.part("driver"):
            made(self)

    Trainer.step = step  # type: ignore[method-assign]


def profiled_recipe(
    source: str, overrides: Sequence[str], steps: int, out: Path, one_thread: bool
) -> TrainConfig:
    """The recipe with so many steps, into ``out``, without evaluations and checkpoints.

    Raises ConfigError where its work is done in other processes, or not by the parts that are measured.
    """
    always = [
        f"run.output_dir={out}",
        f"run.steps={steps}",
        *("training.schedule.warmup_steps=0", "evaluation.every_steps=null", "evaluation.at_start=false"),
        *("evaluation.at_end=false", "checkpoint.every_steps=null", "checkpoint.export_at_end=false"),
        *(["run.threads=1"] if one_thread else []),
    ]
    config = load_recipe(source, [*overrides, *always])
    if isinstance(config, EvalConfig | IteratedConfig | RewardModelConfig):
        raise ConfigError(
            f"{source}: a recipe of kind online, sft or preference is measured, not {config.recipe}"
        )
    if config.cluster.kind == "ray":
        raise ConfigError("cluster.kind=ray: the work is done in other processes, and this one is measured")
    if config.generates and not isinstance(config.rollout.engine, HfEngineConfig):
        raise ConfigError(
            f"rollout.engine.kind={config.rollout.engine.kind}: the embedded engine, hf, is measured"
        )
    if not isinstance(config.training.backend, FsdpBackendConfig):
        raise ConfigError(f"training.backend.kind={config.training.backend.kind}: fsdp is measured")
    return config


def seconds_of(action: Callable[[], object], clock: Callable[[], float], repeats: int = 7) -> float:
    """Median seconds of an action, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        started = clock()
        action()
        times.append(clock() - started)
    return median(times)


def product_rate(shapes: Sequence[Shape], dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """FLOPs per second of one matrix product of each shape, weights as linear layers hold them."""
    flops = seconds = 0.0
    for m, k, n in shapes:
        left, right = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        work = 2 * m * k * n
        times = max(1, int(2e8 / work))  # short products are timed together

        def multiply(left: Any = left, right: Any = right, times: int = times) -> None:
            for _ in range(times):
                torch.nn.functional.linear(left, right)

        flops += work
        seconds += seconds_of(multiply, clock) / times
    return flops / seconds


def shapes_of(architecture: Architecture, rows: int, *, backward: bool) -> list[Shape]:
    """The matrix products of a decoder layer's linear layers with ``rows`` rows, or of their gradients."""
    pairs = [(linear.inputs, linear.outputs) for linear in architecture.linears]
    if not backward:
        return [(rows, k, n) for k, n in pairs]
    return [shape for k, n in pairs for shape in ((rows, n, k), (n, rows, k))]


def copy_rate(clock: Callable[[], float]) -> float:
    """Bytes per second read and written in copies of 64 MiB."""
    source = torch.zeros(2**24)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), clock)


def ceilings(
    parts: dict[str, Part], architecture: Architecture, dtype: torch.dtype, clock: Callable[[], float]
) -> dict[str, float]:
    """FLOPs per second of the products of each part that has some."""
    return {
        name: product_rate(
            shapes_of(architecture, round(sum(part.rows) / len(part.rows)), backward=name == "backward"),
            dtype,
            clock,
        )
        for name, part in parts.items()
        if part.rows
    }


def rates(part: Part, ceiling: float | None, bandwidth: float) -> dict[str, float | None]:
    """Shares of the ceilings that a part reaches, 0 to 1; None where it has no such work."""
    if not part.seconds:
        return {"of_products": None, "of_copies": None, "of_bound": None}
    products = part.flops / part.seconds / ceiling if ceiling and part.flops else None
    copies = part.bytes / part.seconds / bandwidth if part.bytes else None
    known = [share for share in (products, copies) if share is not None]
    return {"of_products": products, "of_copies": copies, "of_bound": max(known, default=None)}


def report_of(
    meter: Meter, architecture: Architecture, clock: Callable[[], float], *, bf16: bool
) -> dict[str, Any]:
    """All figures per step."""
    steps, bandwidth = max(1, meter.steps - 1), copy_rate(clock)
    limits = ceilings(meter.parts, architecture, torch.float32, clock)
    whole = sum(part.seconds for part in meter.parts.values())
    report: dict[str, Any] = {
        "steps": steps,
        "seconds_per_step": whole / steps,
        "copy_bytes_per_second": bandwidth,
    }
    if bf16:
        report["bf16_flops_per_second"] = ceilings(meter.parts, architecture, torch.bfloat16, clock)
    report["parts"] = {}
    for name, part in meter.parts.items():
        figures = {key: value / steps for key, value in asdict(part).items() if key != "rows"}
        limit = {"ceiling_flops_per_second": limits.get(name)}
        share = {"share_of_step": part.seconds / whole if whole else 0.0}
        report["parts"][name] = {**figures, **share, **limit, **rates(part, limits.get(name), bandwidth)}
    return report


def show(report: dict[str, Any]) -> None:
    """Print the figures as a table."""
    columns = (
        "",
        "seconds",
        "share",
        "tokens",
        "GFLOP",
        "GB",
        "GFLOP/s",
        "ceiling",
        "products",
        "copies",
        "bound",
    )
    rows = []
    for name, part in report["parts"].items():
        speed = part["flops"] / part["seconds"] / 1e9 if part["seconds"] and part["flops"] else None
        ceiling = part["ceiling_flops_per_second"]
        shares = [part[key] for key in ("of_products", "of_copies", "of_bound")]
        rows.append(
            (
                name,
                f"{part['seconds']:.3f}",
                f"{part['share_of_step']:.1%}",
                f"{part['tokens']:,.0f}" if part["tokens"] else "",
                f"{part['flops'] / 1e9:.1f}" if part["flops"] else "",
                f"{part['bytes'] / 1e9:.2f}" if part["bytes"] else "",
                f"{speed:.1f}" if speed else "",
                f"{ceiling / 1e9:.1f}" if ceiling else "",
                *(f"{share:.0%}" if share is not None else "" for share in shares),
            )
        )
    print_table(columns, rows)
    print(
        f"\n{report['seconds_per_step']:.3f} s per step; copies {report['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    for name, rate in report.get("bf16_flops_per_second", {}).items():
        speed = rate / report["parts"][name]["ceiling_flops_per_second"]
        print(f"bf16 products of {name}: {rate / 1e9:.1f} GFLOP/s, {speed:.2f} times those in float32")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="name or file")
    parser.add_argument("overrides", nargs="*", help="key.path=value")
    parser.add_argument("--steps", type=int, default=3, help="counted, after one that is not (default 3)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of one thread")
    parser.add_argument("--bf16", action="store_true", help="measure products in bfloat16 too")
    parser.add_argument("--out", type=Path, help="keep what the run writes in this folder")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    options = parser.parse_args()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "run"
        config = profiled_recipe(
            options.recipe, options.overrides, options.steps + 1, out, options.clock == "cpu"
        )
        if config.run.profile and options.out is None:
            parser.error("run.profile writes traces into the run's folder: name one with --out")
        architecture = read_architecture(config.model.path)
        meter = Meter(clock)
        measure_parts(meter, Counts(meter, architecture))
        train(config)
    report = report_of(meter, architecture, clock, bf16=options.bf16)
    report |= {"recipe": options.recipe, "overrides": options.overrides, "clock": options.clock}
    report["machine"] = {**machine(), "threads": torch.get_num_threads()}
    print()
    show(report)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
