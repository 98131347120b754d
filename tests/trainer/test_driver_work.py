"""What the driver does in a step takes as many steps of Python for long responses as for short ones."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from reasoner_rl.advantages.filters import filter_groups
from reasoner_rl.advantages.spread import spread_metrics
from reasoner_rl.algorithms.base import Models
from reasoner_rl.algorithms.group import GroupPolicyGradient
from reasoner_rl.batching.plan import BatchLimits, plan_shares, plan_updates
from reasoner_rl.config.algorithm import DapoConfig
from reasoner_rl.distributed.serialization import dumps
from reasoner_rl.observability.measurements import rollout_metrics
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, write_rollouts
from reasoner_rl.rewards.metrics import reward_metrics
from reasoner_rl.rollout.engine import StepOutput
from reasoner_rl.sources.launches import Launch, Launches
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample


class FakePolicy:
    def logprobs(self, samples: Sequence[TrainSample]) -> list[torch.Tensor]:
        return [torch.full((len(sample.response_ids),), -1.0) for sample in samples]


def groups(scale: int) -> list[ScoredGroup]:
    """Three groups of four responses, of which the first is cut off; all lengths in proportion to ``scale``."""
    made = []
    for number in range(3):
        rollouts = [
            Rollout(
                torch.arange(scale * (1 + number + place), dtype=torch.int32).numpy(),  # type: ignore[arg-type]
                torch.zeros(scale * (1 + number + place)).numpy(),  # type: ignore[arg-type]
                "length" if place == 0 else "stop",
                0,
                "text",
            )
            for place in range(4)
        ]
        rewards = [
            Reward(float(place % 2), float(place % 2), {"right": float(place % 2)}) for place in range(4)
        ]
        prompt = Prompt(f"p/{number}", (1, 2, 3), "prompt", "1", "test")
        made.append(ScoredGroup(prompt, tuple(rollouts), tuple(rewards)))
    return made


def sent(message: object) -> None:
    body, buffers = dumps(message)
    pickle.loads(body, buffers=[buffer.raw() for buffer in buffers])


def a_step(given: list[ScoredGroup], scale: int, folder: Path) -> None:
    """From what the engines return to what ranks are sent and what is recorded, and back from a checkpoint."""
    sent(StepOutput([(0, list(group.rollouts)) for group in given], 12, 100 * scale))
    for metrics in (rollout_metrics, reward_metrics, spread_metrics, filter_groups):
        metrics(given)  # type: ignore[operator]
    algorithm = GroupPolicyGradient(DapoConfig(), updates_per_step=2)
    ready = algorithm.prepare(samples_of(given, 0), Models(FakePolicy())).samples  # type: ignore[arg-type]
    limits = BatchLimits(10 * scale, 10 * scale)
    for message in (plan_shares(ready, limits, 2), plan_updates(ready, 6, limits, 2)):
        sent(message)
    write_rollouts(folder / "a.parquet", 1, given, ready)
    again = groups_of(read_rollouts(folder / "a.parquet"))
    launches = Launches(4, 20 * scale)
    for position, group in enumerate(again):
        launches.add(Launch(0, group.prompt, 0, 1, group.rollouts))
        [request] = launches.start(position, None)
        sent(request)
        for place in launches.collect(StepOutput([(request.number, [group.rollouts[1]])])):
            assert len(launches[place].rollouts[0].token_ids) > scale


def instructions(action: Callable[[], Any]) -> int:
    """How many of Python's instructions an action takes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def test_no_loop_of_python_goes_over_tokens(tmp_path: Path) -> None:
    short, long = groups(10), groups(1000)
    a_step(short, 10, tmp_path)  # what is done once per process
    counts = [
        instructions(lambda: a_step(short, 10, tmp_path)),
        instructions(lambda: a_step(long, 1000, tmp_path)),
    ]
    assert counts[1] < counts[0] * 1.001 + 200, counts
    tokens = sum(len(rollout.token_ids) for group in long for rollout in group.rollouts)
    assert (
        instructions(lambda: [token for group in long for r in group.rollouts for token in r.token_ids])
        > tokens
    )
