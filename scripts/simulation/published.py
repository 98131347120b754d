"""The simulation beside a published configuration: RollPacker's 14B run (arXiv 2509.21009, figure 11, table 2).

Qwen2.5-14B, 32 H800 GPUs, tensor parallelism of 2 in generation, 128 prompts of 8 responses of at most 16k tokens,
GRPO without dynamic sampling. Tail batching alone was 1.48 times as fast as verl there, end to end. It launches a
quarter more prompts and responses than are kept; here, a fifth of the prompts is put off by a budget of tokens.
The H800 is an H100 with slower links between GPUs.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.hardware import hardware
from simulation.costs import roofline
from simulation.lengths import Outcomes, load
from simulation.run import Workload, simulate

REPORTED = 1.48
REPORTED_ROLLOUT_SECONDS = 277.0  # figure 11, 16k, without tail batching
PUT_OFF_SHARE = 0.2  # of prompts: launched are 1.25 times as many as are kept
PROMPTS, RESPONSES = 128, 8


def rollpacker(folder: Path) -> dict[str, Any]:
    """Seconds of a step with the barrier and with tail batching, and their ratio beside the reported one."""
    lengths = load("published")
    longest = [max(lengths.of_group(seed, f"p{seed}", RESPONSES)) for seed in range(2000)]
    budget = int(numpy.quantile(longest, 1 - PUT_OFF_SHARE))

    def step(*overrides: str, barrier: bool = False, steps: int = 3) -> tuple[float, float]:
        config = load_recipe(
            "dapo_qwen2.5_32b",
            [
                "model.path=Qwen/Qwen2.5-14B",
                "cluster.nodes=4",
                "rollout.engine.tensor_parallel=2",
                f"rollout.responses_per_prompt={RESPONSES}",
                f"rollout.sampling.max_response_tokens={lengths.limit}",
                "algorithm.dynamic_sampling={enabled: false}",
                f"batch.prompts_per_step={PROMPTS}",
                f"batch.prompts_per_update={PROMPTS}",
                f"batch.prompts_per_generation={PROMPTS}",
                "logging={progress: false, rollouts: none}",
                *overrides,
            ],
        )
        assert isinstance(config, OnlineConfig)
        workload = Workload(lengths, Outcomes(0.0, 0.0))
        costs = roofline(config, hardware("H100"))
        made = simulate(config, workload, costs, steps, folder, barrier=barrier, decoding_steps=256)
        seconds = statistics.mean(each.seconds for each in made)
        return seconds, seconds * (1 - statistics.mean(each.training for each in made))

    before, rollout = step(barrier=True)
    after, _ = step(f"batch.put_off={{budget_tokens: {budget}, until: long_round}}", steps=10)
    return {
        "budget_tokens": budget,
        "barrier_seconds": before,
        "barrier_without_training_seconds": rollout,
        "reported_rollout_seconds": REPORTED_ROLLOUT_SECONDS,
        "tail_batching_seconds": after,
        "ratio": before / after,
        "reported_ratio": REPORTED,
    }
