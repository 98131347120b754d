#!/usr/bin/env python3
"""What the driver holds and does in a step of a large run: bytes per response token, and seconds of planning, messages
and records.

    python scripts/bench/driver.py [--prompts 512] [--responses 16] [--longest 20000] [--ranks 64] [--json FILE]

Responses have random lengths between 1 token and the longest. Nothing is generated or trained: rollouts are made up,
scored, turned into samples, prepared as DAPO does with several updates per step, and cut into 16 updates for the
data-parallel ranks. Memory is the growth of resident memory.

Messages are all that a step sends and gets back: requests, of which a quarter continue a response; outputs of the
engines, one group each; what ranks are given for an update; and logprobs that they answer. Each kind is pickled as the
transport does and put into a buffer that is there already, as Ray writes into its object store, and read from there;
beside it the same bytes are copied in pieces of the same sizes, into memory that is there and into new memory, and
plain pickle serialises every eighth message. All of these take turns, --rounds times after one that does not count;
medians.

Records: seconds to write rollouts as parquet, of --record-prompts groups. Their ids and logprobs are random, and
compress less than real ones.

The sweep repeats samples, prepare, plan and messages for the update with fewer prompts, and fits a line to the
logarithms of seconds and tokens.

Everything computes in one thread. Seconds are CPU seconds of this process, so that others do not count.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import pickle
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy
import psutil  # type: ignore[import-untyped]
import torch

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.batching.plan import BatchLimits, plan_shares, plan_updates
from reasoner_rl.config.algorithm import DapoConfig
from reasoner_rl.distributed.serialization import dumps
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

T = TypeVar("T")
PROMPT_TOKENS, UPDATES = 200, 16
PLAIN_EVERY = 8  # messages
HIGHEST_SLOPE = 1.05


class FakePolicy:
    """Returns logprobs of the right shape, which are what the driver holds of a forward pass."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[torch.Tensor]:
        """One float32 per response token."""
        return [torch.rand(len(sample.response_ids)) for sample in samples]


def make_groups(prompts: int, responses: int, longest: int) -> list[ScoredGroup]:
    """Made-up scored groups."""
    draw = numpy.random.default_rng(0)
    groups = []
    for index in range(prompts):
        prompt = Prompt(f"p{index}", tuple(range(PROMPT_TOKENS)), "", "1", "made_up")
        rollouts, rewards = [], []
        for _ in range(responses):
            tokens = int(draw.integers(1, longest + 1))
            ids = array("i", draw.integers(0, 150_000, tokens, dtype=numpy.int32).tobytes())
            logprobs = array("f", draw.random(tokens, dtype=numpy.float32).tobytes())
            rollouts.append(Rollout(ids, logprobs, "stop", 0, ""))
            score = float(draw.integers(0, 2))
            rewards.append(Reward(score, score, {}))
        groups.append(ScoredGroup(prompt, tuple(rollouts), tuple(rewards)))
    return groups


def tokens_of(groups: Sequence[ScoredGroup]) -> int:
    """Response tokens."""
    return sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)


def prepared(samples: Sequence[TrainSample]) -> list[TrainSample]:
    """What DAPO prepares of samples, with several updates per step."""
    algorithm = GroupPolicyGradient(DapoConfig(), updates_per_step=UPDATES)
    return algorithm.prepare(samples, Models(FakePolicy())).samples  # type: ignore[arg-type]


def measured(figures: dict[str, Any], name: str, tokens: int, action: Callable[[], T]) -> T:
    """Do something, and note its seconds and what it added to resident memory per response token."""
    gc.collect()
    before, started = psutil.Process().memory_info().rss, time.process_time()
    result = action()
    figures[f"{name}_seconds"] = round(time.process_time() - started, 3)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    figures[f"{name}_bytes_per_token"] = round(grown / tokens, 2)
    return result


class Channel:
    """A buffer that messages are written into and read from, as an object store is."""

    def __init__(self, most_bytes: int) -> None:
        self._buffer = memoryview(bytearray(most_bytes))
        self._source = memoryview(bytearray(most_bytes))
        for each in (self._buffer, self._source):
            numpy.frombuffer(each, numpy.uint8)[:] = 1  # so that all of it is in memory

    def write(self, body: bytes, buffers: Sequence[pickle.PickleBuffer]) -> list[memoryview]:
        """Copy a message into the buffer, and return its parts there."""
        parts, end = [], 0
        for each in (memoryview(body), *(buffer.raw() for buffer in buffers)):
            start, end = end, end + len(each)
            self._buffer[start:end] = each
            parts.append(self._buffer[start:end].toreadonly())
        return parts

    def copy_within(self, sizes: Sequence[int]) -> None:
        """Copy so many bytes each into memory that is there."""
        end = 0
        for size in sizes:
            start, end = end, end + size
            self._buffer[start:end] = self._source[start:end]

    def copy_to_new(self, sizes: Sequence[int]) -> list[bytearray]:
        """Copy so many bytes each into new memory."""
        copies, end = [], 0
        for size in sizes:
            start, end = end, end + size
            copies.append(bytearray(self._source[start:end]))
        return copies


def timed(seconds: dict[str, float], name: str, action: Callable[[], T]) -> T:
    """Do something, and add up its CPU seconds."""
    started = time.process_time()
    result = action()
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - started
    return result


def one_round(messages: Sequence[Any], channel: Channel) -> tuple[dict[str, float], int]:
    """CPU seconds of everything done to all messages, one message after the other; and their bytes."""
    seconds: dict[str, float] = {}
    sent = 0
    for number, message in enumerate(messages):
        before = dict(seconds)
        body, buffers = timed(seconds, "dumps", lambda: dumps(message))  # noqa: B023  called at once
        parts = timed(seconds, "write", lambda: channel.write(body, buffers))  # noqa: B023
        sizes = list(map(len, parts))
        timed(seconds, "loads", lambda: pickle.loads(parts[0], buffers=parts[1:]))  # noqa: B023
        timed(seconds, "copy", lambda: channel.copy_within([sum(sizes)]))  # noqa: B023
        timed(seconds, "copy_to_new", lambda: channel.copy_to_new(sizes))  # noqa: B023
        if number % PLAIN_EVERY == 0:
            whole = timed(seconds, "plain_dumps", lambda: pickle.dumps(message, pickle.HIGHEST_PROTOCOL))  # noqa: B023
            timed(seconds, "plain_loads", lambda: pickle.loads(whole))  # noqa: B023
            for name in ("dumps", "loads"):
                own = seconds[name] - before.get(name, 0.0)
                seconds[f"{name}_of_the_same"] = seconds.get(f"{name}_of_the_same", 0.0) + own
        sent += sum(sizes)
    return seconds, sent


def measure_messages(name: str, messages: Sequence[Any], rounds: int, tokens: int) -> dict[str, Any]:
    """Medians over rounds, and speeds as ratios to a copy: above 1 is faster than the copy."""
    most = max(
        len(body) + sum(len(buffer.raw()) for buffer in buffers) for body, buffers in map(dumps, messages)
    )
    channel = Channel(most)
    taken, sent = zip(*[one_round(messages, channel) for _ in range(1 + rounds)], strict=True)
    seconds = {key: statistics.median(each[key] for each in taken[1:]) for key in taken[0]}

    def ratio(top: str, bottom: str) -> float:
        return round(statistics.median(each[top] / each[bottom] for each in taken[1:]), 2)

    figures = {f"{key}_seconds": round(value, 4) for key, value in seconds.items()} | {
        "megabytes": round(sent[0] / 1e6, 1),
        "bytes_per_token": round(sent[0] / tokens, 2),
        "dumps_speed_to_copy": ratio("copy", "dumps"),
        "loads_speed_to_copy": ratio("copy", "loads"),
        "dumps_speed_to_copy_to_new": ratio("copy_to_new", "dumps"),
        "loads_speed_to_copy_to_new": ratio("copy_to_new", "loads"),
        "dumps_speed_to_plain": ratio("plain_dumps", "dumps_of_the_same"),
        "loads_speed_to_plain": ratio("plain_loads", "loads_of_the_same"),
    }
    return {f"{name}_{key}": value for key, value in figures.items()}


def requests_of(groups: Sequence[ScoredGroup]) -> list[list[GenerationRequest]]:
    """A message of requests for each 16 prompts; every fourth prompt's responses go on after half their tokens."""
    requests = []
    for number, group in enumerate(groups):
        ids = group.prompt.token_ids
        if number % 4:
            requests.append([GenerationRequest(ids, len(group.rollouts), number)])
        else:
            begun = [
                array("i", rollout.token_ids[: len(rollout.token_ids) // 2]) for rollout in group.rollouts
            ]
            requests.append([GenerationRequest(ids, 1, number, begun=each) for each in begun])
    return [list(itertools.chain(*requests[start : start + 16])) for start in range(0, len(requests), 16)]


def write_records(groups: Sequence[ScoredGroup], samples: Sequence[TrainSample]) -> dict[str, Any]:
    """Seconds and bytes of the records of a part of the groups."""
    tokens = tokens_of(groups)
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = Path(folder) / "rollouts.parquet", list[float]()
        for _ in range(3):
            taken: dict[str, float] = {}
            timed(taken, "write", lambda: write_rollouts(path, 1, groups, samples))
            seconds.append(taken["write"])
        size = path.stat().st_size
    return {
        "records_tokens": tokens,
        "records_seconds_per_million_tokens": round(statistics.median(seconds) / tokens * 1e6, 3),
        "records_file_bytes_per_token": round(size / tokens, 2),
    }


def sweep(groups: Sequence[ScoredGroup], limits: BatchLimits, ranks: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of a step's work in the driver for more and more prompts, and the slope of their logarithms."""
    sizes = [size for size in (len(groups) >> shift for shift in range(4, -1, -1)) if size]
    points: list[dict[str, float]] = []

    def step(chosen: Sequence[ScoredGroup]) -> None:
        samples = prepared(samples_of(chosen, 0))
        shares = plan_shares(samples, limits, ranks)
        for message in (*shares, *plan_updates(samples, -(-len(samples) // UPDATES), limits, ranks)):
            dumps(message)

    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(1 + rounds):
        for size in sizes:
            seconds: dict[str, float] = {}
            timed(seconds, "step", lambda: step(groups[:size]))  # noqa: B023
            if number:
                taken[size].append(seconds["step"])
    for size in sizes:
        points.append(
            {"tokens": tokens_of(groups[:size]), "seconds": round(statistics.median(taken[size]), 4)}
        )
    logs = numpy.log([[point["tokens"], point["seconds"]] for point in points])
    slope = float(numpy.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    return {"sweep": points, "slope": round(slope, 3), "slope_within": slope <= HIGHEST_SLOPE}


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--longest", type=int, default=20_000, help="tokens")
    parser.add_argument("--ranks", type=int, default=64, help="data-parallel ranks")
    parser.add_argument("--rounds", type=int, default=5, help="that count, of messages and of the sweep")
    parser.add_argument(
        "--record-prompts", type=int, default=16, help="whose responses are written as records"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> None:
    """Measure everything, print it, and write it as JSON."""
    options = arguments()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    expected = options.prompts * options.responses * (options.longest + 1) // 2
    groups = measured(
        figures,
        "rollouts",
        expected,
        lambda: make_groups(options.prompts, options.responses, options.longest),
    )
    tokens = tokens_of(groups)
    figures |= {"tokens": tokens, "ranks": options.ranks}
    samples = measured(figures, "samples", tokens, lambda: samples_of(groups, 0))
    ready = measured(figures, "prepare", tokens, lambda: prepared(samples))
    figures["responses"] = len(samples)
    limits = BatchLimits(options.longest + PROMPT_TOKENS, options.longest)
    shares = measured(figures, "plan_logprobs", tokens, lambda: plan_shares(ready, limits, options.ranks))
    per_update = -(-len(ready) // UPDATES)
    planned = measured(
        figures, "plan", tokens, lambda: plan_updates(ready, per_update, limits, options.ranks)
    )
    gc.freeze()  # what is held now is not looked through by the collector again and again
    answers = [
        {index: ready[index].old_logprobs for index in share.sample_indices if index >= 0} for share in shares
    ]
    messages: dict[str, Sequence[Any]] = {
        "requests": requests_of(groups),
        "outputs": [StepOutput([(n, list(g.rollouts))], len(g.rollouts)) for n, g in enumerate(groups)],
        "shares": planned,
        "answers": answers,
    }
    for name, each in messages.items():
        figures |= measure_messages(name, each, options.rounds, tokens)
    part = groups[: options.record_prompts]
    figures |= write_records(part, ready[: options.responses * len(part)])
    figures |= sweep(groups, limits, options.ranks, options.rounds)
    for name, figure in figures.items():
        print(f"{name:40} {figure:,}" if isinstance(figure, int | float) else f"{name:40} {figure}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
