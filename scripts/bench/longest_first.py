#!/usr/bin/env python3
"""Decoding steps and seconds of the embedded engine, by the order in which requests are started.

The responses have recorded lengths, and are more than the engine's rows; a row whose response has ended is given to
the next. Each is a request of its own with a made-up prompt of 20 tokens and draws exactly as many tokens as its length
says, so all orders draw the same number, which is checked. Orders:
  given          as in the file
  random         a shuffle, another in each turn
  longest first  by `sources.expected_lengths`, from the lengths of other responses to the same prompt
  known lengths  by the lengths themselves, which nothing can know: how good the estimate could be at best

--records is a parquet file of responses, such as one of evaluations/. The lengths expected are those of --earlier, a
file with the same prompts, such as an evaluation of an earlier policy; without it, the first half of each prompt's
responses is earlier, and the second half is drawn.

Steps are forward passes of the model for one token per row, row steps their rows, used or not. The orders take turns,
--turns times after a warm-up; seconds are the process's CPU time with one thread, so that other processes do not count.

    python scripts/bench/longest_first.py --records runs/x/evaluations/y.parquet --json longest_first.json
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import step_time
from step_time import in_fresh_interpreter, machine

PROMPT_TOKENS = 20


class Recorded(NamedTuple):
    """Responses to draw, and what is expected of each."""

    lengths: list[int]
    expected: list[float]


def recorded(records: Path, earlier: Path | None, wanted: int, scale: float) -> Recorded:
    """The responses of a file to whole prompts, evenly spaced, at least as many as wanted if there are so many."""
    actual = lengths_by_prompt(records, scale)
    if earlier is None:
        before = {uid: found[: len(found) // 2] for uid, found in actual.items()}
        actual = {uid: found[len(found) // 2 :] for uid, found in actual.items()}
    else:
        before = lengths_by_prompt(earlier, scale)
    uids = [uid for uid in actual if before.get(uid)]
    prompts = min(len(uids), -(-wanted // len(actual[uids[0]])))
    chosen = [uids[place * len(uids) // prompts] for place in range(prompts)]
    expected = expectations([before[uid] for uid in chosen])
    pairs = [(length, own) for uid, own in zip(chosen, expected, strict=True) for length in actual[uid]]
    return Recorded([length for length, _ in pairs], [own for _, own in pairs])


def lengths_by_prompt(path: Path, scale: float) -> dict[str, list[int]]:
    """Response tokens of each prompt, in the order of the file."""
    from reasoner_rl.observability.rollout_table import read_rollouts

    found: dict[str, list[int]] = defaultdict(list)
    table = read_rollouts(path)
    for uid, tokens in zip(table["uid"].to_pylist(), table["tokens"].to_pylist(), strict=True):
        found[uid].append(max(1, round(scale * tokens)))
    return dict(found)


def expectations(before: Sequence[Sequence[int]]) -> list[float]:
    """What a run expects of each prompt after responses of these lengths."""
    from reasoner_rl.sources.expected_lengths import ExpectedLengths
    from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

    prompt, reward = Prompt("", (1,), "", "", ""), Reward(0.0, None, {})
    groups = [
        ScoredGroup(
            prompt,
            tuple(Rollout([0] * n, [0.0] * n, "stop", 0, "") for n in lengths),
            (reward,) * len(lengths),
        )
        for lengths in before
    ]
    lengths = ExpectedLengths()
    lengths.learn(range(len(groups)), groups)
    return [lengths.of(index) or 0.0 for index in range(len(groups))]


def orders(batch: Recorded, turn: int) -> dict[str, list[float]]:
    """For each order what is expected of each response; they are started by it, the largest first."""
    shuffled = [float(place) for place in range(len(batch.lengths))]
    random.Random(turn).shuffle(shuffled)
    return {
        "given": [0.0] * len(batch.lengths),
        "random": shuffled,
        "longest first": batch.expected,
        "known lengths": [float(length) for length in batch.lengths],
    }


class Counter:
    """Counts the decoding steps of an engine, and their rows."""

    def __init__(self) -> None:
        self.steps = self.row_steps = 0

    def counting(self, step: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """``step`` of a decoder, counted."""

        def counted(decoder: Any, tokens: Any) -> None:
            self.steps += 1
            self.row_steps += len(tokens)
            step(decoder, tokens)

        return counted


def measure(
    work: step_time.Work, folder: Path, batch: Recorded, rows: int
) -> list[dict[str, dict[str, Any]]]:
    """Of each turn and order CPU seconds, steps and row steps; the first turn is the warm-up."""
    from reasoner_rl.config.rollout import SamplingConfig
    from reasoner_rl.rollout.decoding import Decoder
    from reasoner_rl.rollout.engine import GenerationRequest
    from reasoner_rl.sources.expected_lengths import longest_first

    engine = step_time.embedded_engine(folder, rows, work.threads)
    # min_response_tokens keeps responses from ending by themselves.
    longest = max(batch.lengths)
    sampling = SamplingConfig(max_response_tokens=longest + 1, min_response_tokens=longest + 1)
    requests = [
        GenerationRequest(
            tuple(range(4, 4 + PROMPT_TOKENS)), 1, seed=number, number=number, max_tokens=length
        )
        for number, length in enumerate(batch.lengths)
    ]
    plain_step, turns = Decoder.step, []
    for turn in range(work.steps + 1):
        found: dict[str, dict[str, Any]] = {}
        for name, expected in orders(batch, turn).items():
            counter = Counter()
            Decoder.step = counter.counting(plain_step)  # type: ignore[method-assign, assignment]
            ordered = longest_first(requests, dict(enumerate(expected)))
            started = time.process_time()
            drawn = engine.generate(ordered, sampling)
            seconds = time.process_time() - started
            if [len(group[0].token_ids) for group in drawn] != [each.max_tokens for each in ordered]:
                raise RuntimeError(f"{name}: responses have other lengths than were asked for")
            found[name] = {
                "cpu_seconds": seconds,
                "steps": counter.steps,
                "row_steps": counter.row_steps,
            }
        turns.append(found)
    return turns


def main() -> None:
    """Command line."""
    from reasoner_rl.observability.summary import write_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, required=True, help="parquet file of responses")
    parser.add_argument("--earlier", type=Path, help="parquet file of earlier responses to the same prompts")
    parser.add_argument("--model", default="2.5m", help="as in step_time.py (default 2.5m)")
    parser.add_argument("--responses", type=int, default=256, help="to draw (default 256)")
    parser.add_argument("--rows", type=int, default=64, help="max_batch_sequences (default 64)")
    parser.add_argument("--turns", type=int, default=5, help="of each order, after a warm-up (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="decides weights (default 0)")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    batch = recorded(options.records, options.earlier, options.responses, options.scale)
    work = step_time.Work(options.model, 1, 1, 1, options.turns, 1, options.seed, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_fresh_interpreter(step_time.make_checkpoint, work, folder)
        turns = in_fresh_interpreter(measure, work, folder, batch, options.rows)[1:]
    tokens = sum(batch.lengths)
    print(
        f"{len(batch.lengths)} responses, {tokens} tokens, longest {max(batch.lengths)}, {options.rows} rows"
    )
    print(f"{'order':14} {'steps':>6} {'row steps':>9} {'CPU s':>7} {'time to given':>13}")
    medians: dict[str, dict[str, float]] = {}
    for name in turns[0]:
        own = {key: median(turn[name][key] for turn in turns) for key in turns[0][name]}
        own["time_to_given"] = median(
            turn[name]["cpu_seconds"] / turn["given"]["cpu_seconds"] for turn in turns
        )
        medians[name] = own
        print(
            f"{name:14} {own['steps']:6.0f} {own['row_steps']:9.0f} {own['cpu_seconds']:7.2f} "
            f"{own['time_to_given']:13.2f}"
        )
    if options.json:
        report = {
            "machine": machine(),
            "rows": options.rows,
            "model": options.model,
            "lengths": batch.lengths,
            "expected": batch.expected,
        }
        write_json(options.json, report | {"turns": turns, "medians": medians})


if __name__ == "__main__":
    main()
