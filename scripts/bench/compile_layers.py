#!/usr/bin/env python3
"""Time optimizer updates with and without two options of training, and check that they compute the same.

Options: decoder layers by torch.compile (`training.backend.compile_layers`), and gradient checkpointing that makes
all of a layer again or all but attention (`model.gradient_checkpointing`). For each there is a backend on the same
checkpoint, and updates of the same batch take turns: A B C A B C ... The first update of each, which compiles the
backward pass, is timed by itself, on the wall, as is the first pass without gradients. The others' seconds are the
process's CPU time, because other processes may share the machine; on a GPU they are the wall's.

    python scripts/bench/compile_layers.py --json compile_layers.json             a tiny model, on this machine
    python scripts/bench/compile_layers.py --layers 24 --hidden 896 --heads 14 --intermediate 4864 --dtype bfloat16

Raises AssertionError where in float32 a logprob differs from the plain path's by more than 1e-6 of the largest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_time import be_quiet, machine
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig, OptimizerConfig, TrainingConfig
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.observability.summary import write_json
from reasoner_rl.training.fsdp import FsdpBackend, single_process_group
from reasoner_rl.types import MicroBatch, MiniBatch, TokenOutputs, TrainSample

TOLERANCE = 1e-6  # of the largest logprob, in float32


@dataclass(frozen=True, slots=True)
class Work:
    """The model, and the batch of one update."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    dtype: str
    responses: int
    prompt_tokens: int
    response_tokens: int  # of the longest; others are down to half of it
    repeats: int  # timed updates of each variant, after two that are not
    seed: int


VARIANTS: dict[str, tuple[dict[str, Any], FsdpBackendConfig]] = {
    "plain": ({}, FsdpBackendConfig()),
    "compiled": ({}, FsdpBackendConfig(compile_layers=True)),
    "checkpointing": ({"gradient_checkpointing": True}, FsdpBackendConfig()),
    "keep_attention": ({"gradient_checkpointing": "keep_attention"}, FsdpBackendConfig()),
}


def make_checkpoint(work: Work, folder: Path) -> None:
    """A Qwen2 with random weights and two query heads per key head."""
    torch.manual_seed(work.seed)
    config = Qwen2Config(
        vocab_size=work.vocabulary,
        hidden_size=work.hidden,
        intermediate_size=work.intermediate,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.heads // 2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def make_batch(work: Work) -> MiniBatch:
    """Responses of several lengths in one micro-batch."""
    generator = torch.Generator().manual_seed(work.seed)

    def draw(length: int) -> Tensor:
        return torch.randint(work.vocabulary, (length,), generator=generator)

    samples = []
    for index in range(work.responses):
        length = work.response_tokens - index * work.response_tokens // (2 * work.responses)
        samples.append(
            TrainSample(
                prompt_ids=draw(work.prompt_tokens),
                response_ids=draw(length),
                loss_mask=torch.ones(length, dtype=torch.bool),
                advantages=torch.full((length,), (-1.0) ** index),
                rollout_logprobs=torch.zeros(length),
            )
        )
    tokens = work.responses * (work.prompt_tokens + work.response_tokens)
    return plan_mini_batch(samples, tokens, work.response_tokens)


def build(path: Path, work: Work, variant: str) -> FsdpBackend:
    """A backend on one rank, whose optimizer hardly moves, so that every update does the same work."""
    single_process_group()
    changes, backend = VARIANTS[variant]
    model = ModelConfig.model_validate({"path": str(path), "dtype": work.dtype, **changes})
    training = TrainingConfig(optimizer=OptimizerConfig(lr=1e-9))
    return FsdpBackend(model, training, backend, temperature=1.0, total_updates=1000, updates_per_step=1)


def clock() -> float:
    """Seconds of this process on the CPU, or on the wall once the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def update(backend: FsdpBackend, batch: MiniBatch) -> float:
    """Make one update; return its seconds."""
    started = clock()
    backend.update(batch, loss)
    return clock() - started


def loss(outputs: TokenOutputs, batch: MicroBatch) -> Any:
    """DAPO's."""
    return policy_loss(outputs, batch, config=LossConfig())


def measure(work: Work, variants: Sequence[str], folder: Path) -> dict[str, Any]:
    """Seconds of every update, by variant, and how far each one's logprobs are from the plain path's."""
    make_checkpoint(work, folder)
    batch = make_batch(work)
    backends = {variant: build(folder, work, variant) for variant in variants}
    logprobs, first, first_update = {}, {}, {}
    for name, each in backends.items():
        started = time.perf_counter()
        logprobs[name] = torch.cat(each.logprobs(batch.micro_batches))
        first[name] = time.perf_counter() - started
        started = time.perf_counter()
        update(each, batch)
        first_update[name] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(work.repeats + 1):
        for name, each in backends.items():
            taken = update(each, batch)
            if turn:  # the first is not counted
                seconds[name].append(taken)
    plain = logprobs[variants[0]]
    differences = {
        name: float((each - plain).abs().max() / plain.abs().max()) for name, each in logprobs.items()
    }
    medians = {name: median(each) for name, each in seconds.items()}
    return {
        "first_logprobs_seconds": first,
        "first_update_seconds": first_update,
        "median_seconds": medians,
        "plain_over": {name: medians[variants[0]] / each for name, each in medians.items()},
        "largest_relative_difference": differences,
        "seconds": seconds,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=20)
    parser.add_argument("--response-tokens", type=int, default=128, help="of the longest (default 128)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed updates, after two that are not (default 5)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS][1:], default=[*VARIANTS][1:], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU (default 1)")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = vars(parse(arguments))
    json_file, only, threads = (options.pop(name) for name in ("json", "only", "threads"))
    be_quiet()
    torch.set_num_threads(threads)
    work = Work(**options)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(work, ["plain", *only], Path(folder))
    report = {"work": asdict(work), "machine": machine(), "threads": threads, **found}
    print(f"{'':<18}{'first update, s':>16}{'update, s':>12}{'plain / it':>12}{'difference':>12}")
    for name, seconds in found["median_seconds"].items():
        first, ratio = found["first_update_seconds"][name], found["plain_over"][name]
        difference = found["largest_relative_difference"][name]
        print(f"{name:<18}{first:>16.2f}{seconds:>12.4f}{ratio:>12.2f}{difference:>12.1e}")
    if json_file:
        write_json(json_file, report)
    worst = max(found["largest_relative_difference"].values())
    assert work.dtype != "float32" or worst <= TOLERANCE, f"logprobs differ by {worst:.1e} of the largest"


if __name__ == "__main__":
    main()
