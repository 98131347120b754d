#!/usr/bin/env python3
"""How the cost of generation and of updates grows with tokens: slopes of log seconds over log tokens.

Two series, each of the same model with random weights: more responses of one length, where cost should be linear, and
longer responses of one number, where attention's part grows with the square. Per size the embedded engine draws the
responses (64 rows side by side) and the trainer makes one update of them, in micro-batches of 8,192 tokens; sizes take
turns, and the medians count. Lines are fitted by least squares. Seconds are the CPU time of one thread.

    python scripts/bench/token_scaling.py --json token_scaling.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy
import step_time
from step_time import Work, in_fresh_interpreter, machine

# Prompts of a step, with 8 responses each; tokens of a response.
SERIES = {
    "responses": [(prompts, 64) for prompts in (8, 16, 32, 64)],
    "length": [(8, tokens) for tokens in (32, 64, 128, 256)],
}
MICRO_BATCH_TOKENS = 8192


def measure(work: Work, folder: Path) -> list[dict[str, float]]:
    """Seconds of generation and update in each counted step."""
    config = step_time.our_recipe(work, folder)
    rows = config.rollout.engine.model_copy(update={"max_batch_sequences": 64})
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"engine": rows})})
    return [
        {name: found[f"time/{name}"] for name in ("generate", "update")}
        for found in step_time.run_steps(config, work)
    ]


def slope(tokens: list[int], seconds: list[float]) -> float:
    """Of the line through log seconds over log tokens."""
    return float(numpy.polyfit(numpy.log(tokens), numpy.log(seconds), 1)[0])


def measured_series(base: Work, folder: Path, sizes: list[tuple[int, int]], turns: int) -> dict[str, Any]:
    """Medians of every size, and the slopes."""
    found: list[list[dict[str, float]]] = [[] for _ in sizes]
    for _ in range(turns):
        for place, (prompts, tokens) in enumerate(sizes):
            work = replace(base, prompts=prompts, tokens=tokens)
            found[place] += in_fresh_interpreter(measure, work, folder)
    totals = [prompts * base.responses * length for prompts, length in sizes]
    report: dict[str, Any] = {"response_tokens": totals, "length": [length for _, length in sizes]}
    for part in ("generate", "update"):
        seconds = [median(step[part] for step in steps) for steps in found]
        report[part] = {"seconds": seconds, "slope": slope(totals, seconds)}
    return report


def main() -> None:
    """Command line."""
    from reasoner_rl.observability.summary import write_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="2.5m", help="as in step_time.py (default 2.5m)")
    parser.add_argument("--turns", type=int, default=3, help="processes for each size (default 3)")
    parser.add_argument("--steps", type=int, default=2, help="counted in each process, after one (default 2)")
    parser.add_argument("--series", choices=SERIES, nargs="*", default=list(SERIES))
    parser.add_argument("--json", type=Path, help="file to write every number to")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    base = Work(options.model, 8, 8, 64, options.steps, 1, 0, MICRO_BATCH_TOKENS, clock="cpu")
    report: dict[str, Any] = {"machine": machine(), "model": options.model, "series": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_fresh_interpreter(step_time.make_checkpoint, base, folder)
        for name in options.series:
            series = measured_series(base, folder, SERIES[name], options.turns)
            report["series"][name] = series
            print(f"more {name}: {series['response_tokens']} response tokens, {series['length']} each")
            for part in ("generate", "update"):
                seconds = ", ".join(f"{value:.2f}" for value in series[part]["seconds"])
                print(f"  {part:9} {seconds} s; slope {series[part]['slope']:.3f}", flush=True)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
