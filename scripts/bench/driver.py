#!/usr/bin/env python3
"""What the driver holds and does in a step of a large run: bytes per response token, seconds of planning and messages.

    python scripts/bench/driver.py [--prompts 512] [--responses 16] [--longest 20000] [--ranks 64] [--json FILE]

Responses have random lengths between 1 token and the longest. Nothing is generated or trained: rollouts are made up,
scored, turned into samples, prepared as DAPO does with several updates per step, cut into 16 updates for the
data-parallel ranks, and serialised once per rank, as they are sent. Memory is the growth of resident memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import pickle
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy
import psutil  # type: ignore[import-untyped]
import torch

from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.batching.plan import BatchLimits, plan_updates
from reasoner_rl.config.algorithm import DapoConfig
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

T = TypeVar("T")
PROMPT_TOKENS, UPDATES = 200, 16


class FakePolicy:
    """Returns logprobs of the right shape, which are what the driver holds of a forward pass."""

    def logprobs(self, samples: list[TrainSample]) -> list[torch.Tensor]:
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


def measured(figures: dict[str, Any], name: str, tokens: int, action: Callable[[], T]) -> T:
    """Do something, and note its seconds and what it added to resident memory per response token."""
    gc.collect()
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    result = action()
    figures[f"{name}_seconds"] = round(time.perf_counter() - started, 2)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    figures[f"{name}_bytes_per_token"] = round(grown / tokens, 2)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--longest", type=int, default=20_000, help="tokens")
    parser.add_argument("--ranks", type=int, default=64, help="data-parallel ranks")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    groups_tokens = options.prompts * options.responses * (options.longest + 1) // 2
    figures: dict[str, Any] = {}
    groups = measured(
        figures,
        "rollouts",
        groups_tokens,
        lambda: make_groups(options.prompts, options.responses, options.longest),
    )
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
    samples = measured(figures, "samples", tokens, lambda: samples_of(groups, 0))
    algorithm = GroupPolicyGradient(DapoConfig(), updates_per_step=UPDATES)
    models = Models(FakePolicy())  # type: ignore[arg-type]
    prepared = measured(figures, "prepare", tokens, lambda: algorithm.prepare(samples, models).samples)
    limits = BatchLimits(options.longest + PROMPT_TOKENS, options.longest)
    planned = measured(
        figures,
        "plan",
        tokens,
        lambda: plan_updates(prepared, len(prepared) // UPDATES, limits, options.ranks),
    )
    started, sent = time.perf_counter(), 0
    for share in planned:
        sent += len(pickle.dumps(share, protocol=pickle.HIGHEST_PROTOCOL))
    figures["messages_seconds"] = round(time.perf_counter() - started, 2)
    figures["messages_bytes_per_token"] = round(sent / tokens, 2)
    figures |= {"responses": len(samples), "tokens": tokens, "ranks": options.ranks}
    for name, figure in figures.items():
        print(f"{name:32} {figure:,}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
