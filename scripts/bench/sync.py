#!/usr/bin/env python3
"""Time a weight sync from sharded ranks to a rollout copy in bfloat16: tensor by tensor, and in buckets.

    python scripts/bench/sync.py [--hidden 512] [--layers 12] [--bucket-mib 8 64] [--rounds 9] [--json FILE]

Two ranks over gloo hold a Qwen2 of random float32 weights, sharded by FSDP2. One way gathers every tensor in float32
and casts it as it is loaded; the others gather buckets in bfloat16, the next one while this one is loaded. Ways take
turns, round by round, and the first round is not counted. Seconds are those of the slower rank, CPU seconds those of
both ranks' processes together, which other programs on the machine disturb less; medians over rounds, and of the
ratios of each round. The copies that the ways make are compared to the bit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import step_time
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import Qwen2Config, Qwen2ForCausalLM

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig, TrainingConfig
from reasoner_rl.observability.summary import write_json
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.training.gather import Transfer, plan_buckets, shard_part
from reasoner_rl.training.policy import tensor_names

RANKS = 2
BFLOAT16 = torch.bfloat16
PLAIN = "tensor by tensor, float32"


def make_checkpoint(folder: Path, hidden: int, layers: int, vocabulary: int) -> None:
    """A Qwen2 with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def measure(rank: int, folder: Path, buckets: Sequence[int], rounds: int) -> None:
    """One rank: time all ways in turn, and write what rank 0 found."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    backend = FsdpBackend(
        ModelConfig(path=str(folder)),
        TrainingConfig(),
        FsdpBackendConfig(),
        temperature=1.0,
        total_updates=1,
        updates_per_step=1,
        frozen=True,
    )
    ways: dict[str, Callable[[], Iterator[tuple[str, Tensor]]]] = {PLAIN: backend.full_weights}
    for mib in buckets:
        transfer = Transfer(BFLOAT16, mib * 2**20)
        ways[named(mib)] = lambda transfer=transfer: backend.full_weights(transfer)  # type: ignore[misc]
    copies = {way: {name: tensor.to(BFLOAT16) for name, tensor in stream()} for way, stream in ways.items()}
    for way, copy in copies.items():
        assert copy.keys() == copies[PLAIN].keys()
        assert all(torch.equal(tensor, copies[PLAIN][name]) for name, tensor in copy.items()), way
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
    sizes: dict[str, int] = {}
    for number in range(rounds + 1):
        for way, stream in ways.items():
            taken, computed, sizes[way] = load(stream, copies[way])
            if number > 0:
                seconds[way].append(taken)
                cpu_seconds[way].append(computed)
    if rank == 0:
        found = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "bytes": sizes,
            "collectives": collectives(backend, buckets),
        }
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def named(mib: int) -> str:
    """The name of a way with buckets."""
    return f"buckets of {mib} MiB, bfloat16"


def load(
    stream: Callable[[], Iterator[tuple[str, Tensor]]], copy: dict[str, Tensor]
) -> tuple[float, float, int]:
    """Seconds of the slower rank to load the copy, CPU seconds of both, and bytes of the whole tensors that came."""
    dist.barrier()
    start, computed, size = time.perf_counter(), time.process_time(), 0
    for name, tensor in stream():
        copy[name].copy_(tensor)
        size += tensor.numel() * tensor.element_size()
    seconds, both = torch.tensor(time.perf_counter() - start), torch.tensor(time.process_time() - computed)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    dist.all_reduce(both, op=dist.ReduceOp.SUM)
    return float(seconds), float(both), size


def collectives(backend: FsdpBackend, buckets: Sequence[int]) -> dict[str, int]:
    """How many each way makes."""
    model = backend._policy.model
    state = model.state_dict()
    parts = [shard_part(state[name], BFLOAT16) for name in tensor_names(model)]
    return {PLAIN: len(parts)} | {named(mib): len(plan_buckets(parts, mib * 2**20)) for mib in buckets}


def report_of(found: dict[str, Any], work: dict[str, Any]) -> dict[str, Any]:
    """Medians, and how many times as long the plain way takes."""
    report: dict[str, Any] = {"work": work, "machine": step_time.machine()}
    for kind in ("seconds", "cpu_seconds"):
        taken: dict[str, list[float]] = found[kind]
        report[f"median_{kind}"] = {way: median(each) for way, each in taken.items()}
        report[f"plain_over_way_{kind}"] = {
            way: median(plain / own for plain, own in zip(taken[PLAIN], each, strict=True))
            for way, each in taken.items()
        }
    return report | found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=512, help="width of the model (default 512)")
    parser.add_argument("--layers", type=int, default=12, help="default 12")
    parser.add_argument("--vocabulary", type=int, default=16384, help="default 16384")
    parser.add_argument("--bucket-mib", type=int, nargs="+", default=[8, 64], help="default 8 64")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds, after one warm-up (default 9)")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_checkpoint(folder, options.hidden, options.layers, options.vocabulary)
        spawn(measure, (folder, options.bucket_mib, options.rounds), nprocs=RANKS)
        found = json.loads((folder / "found.json").read_text())
    work = {
        name: getattr(options, name) for name in ("hidden", "layers", "vocabulary", "bucket_mib", "rounds")
    }
    report = report_of(found, work)
    print(
        f"{'':<28}{'MiB':>8}{'collectives':>13}{'seconds':>10}{'plain / it':>12}{'CPU s':>8}{'plain / it':>12}"
    )
    for way, size in report["bytes"].items():
        line = f"{way:<28}{size / 2**20:>8.1f}{report['collectives'][way]:>13}"
        for kind, width in (("seconds", 10), ("cpu_seconds", 8)):
            taken, ratio = report[f"median_{kind}"][way], report[f"plain_over_way_{kind}"][way]
            line += f"{taken:>{width}.3f}{ratio:>12.2f}"
        print(line)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
