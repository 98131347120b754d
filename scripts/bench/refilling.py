#!/usr/bin/env python3
"""Tokens per second of the embedded engine with refilled rows, against batch after batch, on the same responses.

Refilling: all responses are submitted at once, and a row whose response has ended is given to a waiting one. Batch
after batch, as the engine did before: the responses are submitted in the fewest batches of equal size, and the next
batch starts when the last response of one has ended. In both, rows of ended responses leave the batch.

Each response is a request of its own with a prompt of 20 tokens and exactly as many tokens as its length says, so both
sides draw the same tokens, which is checked. The sets of lengths:
  records     of the responses in parquet files of runs or evaluations (--records), in their order, thinned evenly
  heavy tail  lognormal, median 48 tokens and sigma 1, at most 512
  equal       48 tokens each, where nothing is to be gained

The sides take turns; seconds are the process's CPU time with one thread, so that other processes do not count.

    python scripts/bench/refilling.py --records runs/x/rollouts/*.parquet --json refilling.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy
import step_time
from step_time import in_fresh_interpreter, machine

PROMPT_TOKENS, MEDIAN, SIGMA, LONGEST = 20, 48, 1.0, 512
# What one side does: the engine, the lengths and a seed in, the sampled tokens out.
Side = Callable[[Any, Sequence[int], int], list[Any]]


def recorded_lengths(files: Sequence[Path], wanted: int) -> list[int]:
    """Tokens of responses in the records, as many as wanted, evenly spaced over all."""
    from reasoner_rl.observability.rollout_table import read_rollouts

    lengths = [tokens for path in files for tokens in read_rollouts(path)["tokens"].to_pylist()]
    places = numpy.linspace(0, len(lengths) - 1, min(wanted, len(lengths))).astype(int)
    return [max(1, lengths[place]) for place in places]


def heavy_tailed_lengths(wanted: int, seed: int) -> list[int]:
    """Lognormal lengths, cut off at the longest."""
    drawn = numpy.random.default_rng(seed).lognormal(numpy.log(MEDIAN), SIGMA, wanted)
    return [int(length) for length in drawn.clip(1, LONGEST).round()]


def generate(engine: Any, lengths: Sequence[int], first: int, seed: int) -> list[Any]:
    """Token ids of a response for each length; ``first`` is the number of the first response."""
    from reasoner_rl.config.rollout import SamplingConfig
    from reasoner_rl.rollout.engine import GenerationRequest

    # min_response_tokens keeps responses from ending by themselves.
    sampling = SamplingConfig(max_response_tokens=LONGEST * 4, min_response_tokens=LONGEST * 4)
    requests = [
        GenerationRequest(prompt_ids(first + number), 1, seed=seed + first + number, max_tokens=length)
        for number, length in enumerate(lengths)
    ]
    return [group[0].token_ids for group in engine.generate(requests, sampling)]


def prompt_ids(number: int) -> tuple[int, ...]:
    """A made-up prompt."""
    return tuple(int(token) for token in numpy.random.default_rng(number).integers(4, 40, PROMPT_TOKENS))


def refilling(engine: Any, lengths: Sequence[int], rows: int, seed: int) -> list[Any]:
    """All responses at once."""
    return generate(engine, lengths, 0, seed)


def batch_after_batch(engine: Any, lengths: Sequence[int], rows: int, seed: int) -> list[Any]:
    """The fewest batches of equal size, each after the last response of the one before."""
    batches = -(-len(lengths) // rows)
    size = -(-len(lengths) // batches)
    starts = range(0, len(lengths), size)
    return [ids for start in starts for ids in generate(engine, lengths[start : start + size], start, seed)]


SIDES = {"refilling": refilling, "batch after batch": batch_after_batch}


def measure(work: step_time.Work, folder: Path, lengths: Sequence[int], rows: int) -> dict[str, list[float]]:
    """CPU seconds of each side, ``work.steps`` times in turns after a warm-up."""
    engine = step_time.embedded_engine(folder, rows, work.threads)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(work.steps + 1):
        drawn = {}
        for side, run in SIDES.items():
            started = time.process_time()
            drawn[side] = run(engine, lengths, rows, turn)
            seconds[side].append(time.process_time() - started)
        if [len(ids) for ids in drawn["refilling"]] != list(lengths):
            raise RuntimeError("refilling: responses have other lengths than were asked for")
        if (same := share_equal(*drawn.values())) < 0.9:  # rounding may change a token now and then
            raise RuntimeError(f"not the same work: {same:.0%} of the responses are equal")
    return {side: found[1:] for side, found in seconds.items()}


def share_equal(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Share of responses with the same tokens on both sides."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def main() -> None:
    """Command line."""
    from reasoner_rl.observability.summary import write_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="2.5m", help="as in step_time.py (default 2.5m)")
    parser.add_argument("--responses", type=int, default=256, help="in each set (default 256)")
    parser.add_argument("--rows", type=int, default=64, help="max_batch_sequences (default 64)")
    parser.add_argument("--turns", type=int, default=5, help="of each side, after a warm-up (default 5)")
    parser.add_argument("--records", type=Path, nargs="*", default=[], help="parquet files of responses")
    parser.add_argument("--sets", nargs="*", help="of records, 'heavy tail', equal (default: all there are)")
    parser.add_argument("--seed", type=int, default=0, help="decides weights and lengths (default 0)")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sets = {"heavy tail": heavy_tailed_lengths(options.responses, options.seed)}
    sets["equal"] = [MEDIAN] * options.responses
    if options.records:
        sets = {"records": recorded_lengths(options.records, options.responses), **sets}
    sets = {name: lengths for name, lengths in sets.items() if name in (options.sets or sets)}
    work = step_time.Work(options.model, 1, 1, 1, options.turns, 1, options.seed, 1)
    report: dict[str, Any] = {"machine": machine(), "rows": options.rows, "model": options.model, "sets": {}}
    print(
        f"{'lengths':12} {'responses':>9} {'mean':>6} {'longest':>7} {'refilling':>10} {'batches':>9} {'ratio':>6}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_fresh_interpreter(step_time.make_checkpoint, work, folder)
        for name, lengths in sets.items():
            seconds = in_fresh_interpreter(measure, work, folder, lengths, options.rows)
            speeds = {side: sum(lengths) / median(found) for side, found in seconds.items()}
            ratio = speeds["refilling"] / speeds["batch after batch"]
            report["sets"][name] = {
                "lengths": lengths,
                "cpu_seconds": seconds,
                "tokens_per_second": speeds,
                "ratio": ratio,
            }
            print(
                f"{name:12} {len(lengths):9} {numpy.mean(lengths):6.1f} {max(lengths):7} "
                f"{speeds['refilling']:10.0f} {speeds['batch after batch']:9.0f} {ratio:6.2f}",
                flush=True,
            )
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
