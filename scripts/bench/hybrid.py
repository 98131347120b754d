#!/usr/bin/env python3
"""Time the hybrid engine on the same work with each rollout engine: generation, update, and the switch between them.

The work is that of step_time.py: fixed numbers of prompts, responses and tokens, one AdamW update of the whole batch
with DAPO's loss. Each engine runs in a process of its own, one after the other; the first step of each is not counted.
Numbers are medians over steps; memory is the largest seen.

    python scripts/bench/hybrid.py --model models/smollm2-135m --prompts 8 --engines hf vllm vllm-shared
    python scripts/bench/hybrid.py --model Qwen/Qwen2.5-1.5B --dtype bfloat16 --tokens 1024      on a GPU

vllm-shared trains vLLM's own weights in place (rollout.engine.share_weights). FLOP/s counts 6 floating-point operations
per parameter and token of the update, and no attention. The copy is one of a large tensor on the same device.
"""

# Verifier processes import step_time.py, so everything heavy is imported where it is used.
from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import step_time
from step_time import Work, add_work_arguments, in_fresh_interpreter, machine, make_checkpoint, our_recipe

if TYPE_CHECKING:
    from reasoner_rl.config.recipes import OnlineConfig

ENGINES: dict[str, dict[str, Any]] = {
    "hf": {"kind": "hf"},
    "vllm": {"kind": "vllm"},
    "vllm-shared": {"kind": "vllm", "share_weights": True},
}
COPY_BYTES = 2**28
# What is shown of a step's metrics: title, key, how steps are combined.
ROWS = (
    ("step, s", "time/total", median),
    ("generate, s", "time/generate", median),
    ("generate, tokens/s", "speed/generate_tokens_per_second", median),
    ("update, s", "time/update", median),
    ("update, tokens/s", "speed/update_tokens_per_second", median),
    ("update, GFLOP/s", "update_gflops", median),
    ("sync, s", "time/sync", median),
    ("  of it loading, s", "time/sync_load", median),
    ("  of it check, s", "time/sync_check", median),
    ("sync, GiB", "sync/gib", median),
    ("sync, GiB/s", "speed/sync_gib_per_second", median),
    ("switch to training, s", "time/switch", median),
    ("host memory peak, GiB", "memory/host_peak_gib", max),
    ("device peak, GiB", "memory/device_gib", max),
    ("device before sync, GiB", "memory/sync_device_before_gib", max),
    ("device after sync, GiB", "memory/sync_device_after_gib", max),
    ("device after switch, GiB", "memory/switch_device_after_gib", max),
)

Measured = dict[str, float]


def recipe(work: Work, folder: Path, engine: str, dtype: str) -> OnlineConfig:
    """The work as a recipe with another rollout engine; the checkpoint is in ``folder``."""
    base = our_recipe(work, folder).model_dump()
    base["model"]["dtype"] = dtype
    base["rollout"]["engine"] = ENGINES[engine]
    return type(our_recipe(work, folder)).model_validate(base)


def measure(work: Work, folder: Path, engine: str, dtype: str, parameters: int) -> list[Measured]:
    """Every timed step's metrics with one engine."""
    steps = step_time.run_steps(recipe(work, folder, engine, dtype), work)
    for step in steps:
        step["update_gflops"] = 6e-9 * parameters * step["speed/update_tokens_per_second"]
    return steps


def copy_gib_per_second() -> float:
    """Bandwidth of copying a large float32 tensor from one place of the device to another."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return COPY_BYTES / 2**30 / median(seconds)


def table(results: dict[str, list[Measured]]) -> str:
    """One row per measurement, one column per engine; a dash where an engine has none."""
    lines = [f"{'':<26}" + "".join(f"{engine:>14}" for engine in results)]
    for title, key, combine in ROWS:
        cells = []
        for steps in results.values():
            seen = [step[key] for step in steps if key in step]
            cells.append(f"{combine(seen):>14.3g}" if seen else f"{'-':>14}")
        if any(cell.strip() != "-" for cell in cells):
            lines.append(f"{title:<26}" + "".join(cells))
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=["hf", "vllm"], help="default hf vllm"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of both sides (default float32)"
    )
    add_work_arguments(parser, steps=3)
    parser.add_argument("--json", type=Path, help="file to write every number to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    from reasoner_rl.observability.summary import write_json

    options = vars(parse(arguments))
    engines, dtype, json_file = options.pop("engines"), options.pop("dtype"), options.pop("json")
    work = Work(**options)
    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = in_fresh_interpreter(make_checkpoint, work, folder)
        report = {"work": vars(work) | {"dtype": dtype, "parameters": parameters}, "machine": machine()}
        for part, content in report.items():
            print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in content.items()))
        results: dict[str, list[Measured]] = {}
        for engine in engines:  # what was measured is kept should a later engine fail or be stopped
            results[engine] = in_fresh_interpreter(measure, work, folder, engine, dtype, parameters)
            print(f"\n{table({engine: results[engine]})}", flush=True)
            if json_file:
                write_json(json_file, {**report, "steps": results})
    copy = in_fresh_interpreter(copy_gib_per_second)
    print(f"\n{table(results)}\n\ncopy on the device: {copy:.1f} GiB/s")
    if json_file:
        write_json(json_file, {**report, "copy_gib_per_second": copy, "steps": results})


if __name__ == "__main__":
    main()
