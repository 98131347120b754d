"""What is simulated: clusters, schedules, and how many steps of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.hardware import hardware
from simulation.costs import roofline
from simulation.lengths import Lengths, load, outcomes
from simulation.run import StepFigures, Workload, simulate

# Tokens after which tail batching puts a response off: this share of responses ends before.
BUDGET_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Cluster:
    """A recipe on so many GPUs."""

    recipe: str
    overrides: tuple[str, ...]
    decoding_steps: int  # most tokens per response in a simulated call of a replica


@dataclass(frozen=True, slots=True)
class Schedule:
    """How generation and training take turns."""

    label: str
    overrides: tuple[str, ...]
    steps: int  # that are simulated
    skipped: int = 0  # the first of them, which are not like later ones
    barrier: bool = False
    # Prompts in flight for each that is trained on. Half of the groups are dropped; verl's DAPO has 3.
    generation: int = 2


CLUSTERS = {
    "7b_8": Cluster("dapo_qwen2.5_7b", (), 64),
    "32b_128": Cluster("dapo_qwen2.5_32b", (), 128),
    "32b_1024": Cluster("dapo_qwen2.5_32b", ("cluster.nodes=128",), 256),
}
SCHEDULES = {
    "barrier": Schedule("barrier, as verl's DAPO", (), 2, barrier=True, generation=3),
    "synchronous": Schedule("ours, synchronous", (), 2),
    "tail_batching": Schedule("ours, tail batching", (), 8, skipped=2),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated run, averaged over its steps."""

    cluster: str
    schedule: str
    lengths: str
    gpus: int
    hardware: str
    step_seconds: float
    idle_share: float
    generating_share: float
    training_share: float
    rows: float
    drawn_tokens: float  # per step
    generated_groups: float
    driver_seconds: float
    calls: float
    steps: list[StepFigures]

    def to_json(self) -> dict[str, Any]:
        """All of it by name."""
        return dataclasses.asdict(self)


def budget(lengths: Lengths) -> int:
    """Tokens after which tail batching puts a response off."""
    shares, tokens = zip(*lengths.knots, strict=True)
    return int(next(t for share, t in zip(shares, tokens, strict=True) if share >= BUDGET_SHARE))


def config_of(cluster: Cluster, schedule: Schedule, lengths: Lengths) -> OnlineConfig:
    """The recipe of a cell."""
    config = load_recipe(cluster.recipe, [*cluster.overrides, *schedule.overrides])
    prompts = config.batch.prompts_per_step  # type: ignore[union-attr]
    own = [
        f"rollout.sampling.max_response_tokens={lengths.limit}",
        f"batch.prompts_per_generation={schedule.generation * prompts}",
        "logging.progress=false",
        "logging.rollouts=none",
    ]
    if schedule is SCHEDULES["tail_batching"]:
        own.append(f"batch.put_off={{budget_tokens: {budget(lengths)}, until: long_round}}")
    made = load_recipe(cluster.recipe, [*cluster.overrides, *schedule.overrides, *own])
    assert isinstance(made, OnlineConfig)
    return made


def simulate_cell(
    cluster: str, schedule: str, lengths: str, folder: Path, gpu: str = "H100", *, pickles: bool = False
) -> Cell:
    """Simulate one cell; with ``pickles``, of the first two steps, with calls as long as the product's."""
    where, how, drawn = CLUSTERS[cluster], SCHEDULES[schedule], load(lengths)
    config = config_of(where, how, drawn)
    costs = roofline(config, hardware(gpu))
    workload = Workload(drawn, outcomes())
    figures = simulate(
        config,
        workload,
        costs,
        2 if pickles else how.steps,
        folder,
        barrier=how.barrier,
        pickles=pickles,
        decoding_steps=64 if pickles else where.decoding_steps,
    )
    return averaged(cluster, schedule, lengths, config.cluster.ranks, gpu, figures, how.skipped)


def averaged(
    cluster: str,
    schedule: str,
    lengths: str,
    gpus: int,
    gpu: str,
    figures: Sequence[StepFigures],
    skipped: int,
) -> Cell:
    """Means over steps; shares are of the whole time."""
    counted = figures[min(skipped, len(figures) - 1) :]
    whole = sum(step.seconds for step in counted)

    def mean(name: str) -> float:
        return float(sum(getattr(step, name) for step in counted) / len(counted))

    def share(name: str) -> float:
        return float(sum(getattr(step, name) * step.seconds for step in counted) / whole)

    return Cell(
        cluster=cluster,
        schedule=schedule,
        lengths=lengths,
        gpus=gpus,
        hardware=gpu,
        step_seconds=whole / len(counted),
        idle_share=share("idle"),
        generating_share=share("generating"),
        training_share=share("training"),
        rows=mean("rows"),
        drawn_tokens=mean("drawn_tokens"),
        generated_groups=mean("generated_groups"),
        driver_seconds=mean("driver_seconds"),
        calls=mean("calls"),
        steps=list(figures),
    )
