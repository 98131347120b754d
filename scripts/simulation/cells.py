"""What is simulated: clusters, schedules, and how many steps of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner_rl.config.batch import BatchConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.hardware import hardware
from reasoner_rl.rollout.engine import MAX_DECODING_STEPS
from simulation.costs import roofline
from simulation.lengths import Lengths, load, outcomes
from simulation.run import StepFigures, Workload, simulate

# Tokens after which tail batching puts a response off: this share of responses ends before.
BUDGET_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Cluster:
    """A recipe on so many GPUs."""

    recipe: str
    gpus: int
    training_gpus: (
        int  # of them, where generation has workers of its own: about as many as keep both sides busy
    )
    decoding_steps: int  # most tokens per response in a simulated call of a replica
    # The cluster and its batch are simulated at this part of their size, with as much of the batch per GPU. That leaves
    # the tail as long, since it ends at the limit of tokens, and makes the batch's order coarser.
    part: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """How generation and training take turns."""

    label: str
    overrides: tuple[str, ...]
    steps: int  # that are simulated
    skipped: int = 0  # the first of them, which are not like later ones
    barrier: bool = False
    puts_off: str = ""  # until when, if it puts responses off
    split: bool = False  # whether generation has workers of its own
    # Prompts in flight for each that is trained on. Half of the groups are dropped; 3 in the recipe and verl's DAPO.
    generation: int = 2


def _ahead(label: str, ahead: int, order: str = "finished", *, split: bool = False) -> Schedule:
    # The recipe throws surplus away, which generation ahead of training does not.
    rule = f"batch.ahead={{steps: {ahead}, order: {order}}}"
    overrides = (rule, "algorithm.dynamic_sampling.max_staleness=1")
    skipped = 2 * (ahead + 1)
    return Schedule(label, overrides, skipped + 8, skipped=skipped, split=split, generation=1 + ahead)


CLUSTERS = {
    "7b_8": Cluster("dapo_qwen2.5_7b", 8, 2, 64),
    "32b_128": Cluster("dapo_qwen2.5_32b_megatron", 128, 64, 256, part=2),
    "32b_1024": Cluster("dapo_qwen2.5_32b_megatron", 1024, 256, 256, part=8),
}
SCHEDULES = {
    "barrier": Schedule("barrier, as verl's DAPO", (), 4, barrier=True, generation=3),
    "synchronous": Schedule("ours, synchronous", (), 4),
    "tail_batching": Schedule("ours, tail batching", (), 11, skipped=2, puts_off="long_round"),
    "tail_batching_3": Schedule(
        "ours, tail batching, 3 in flight", (), 11, skipped=2, puts_off="long_round", generation=3
    ),
    "partial_rollouts": Schedule(
        "ours, partial rollouts, 3 in flight", (), 12, skipped=4, puts_off="next_step", generation=3
    ),
    "one_step_off": _ahead("ours, one step off", 1),
    "staleness_2": _ahead("ours, staleness 2", 2),
    "staleness_4": _ahead("ours, staleness 4", 4),
    "in_order_4": _ahead("ours, staleness 4, in order", 4, "begun"),
    "split_2": _ahead("ours, staleness 2, split placement", 2, split=True),
    "split_4": _ahead("ours, staleness 4, split placement", 4, split=True),
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


def _placement(cluster: Cluster, schedule: Schedule) -> list[str]:
    """GPUs to train on, and GPUs that generate alone, in machines of at most 8."""
    gpus = cluster.gpus // cluster.part
    training = cluster.training_gpus // cluster.part if schedule.split else gpus

    def machines(workers: int) -> tuple[int, int]:
        return max(1, workers // 8), min(workers, 8)

    nodes, per_node = machines(training)
    placed = [f"cluster.nodes={nodes}", f"cluster.workers_per_node={per_node}"]
    if schedule.split:
        nodes, per_node = machines(gpus - training)
        placed.append(f"cluster.generation={{nodes: {nodes}, workers_per_node: {per_node}}}")
    return placed


def config_of(cluster: Cluster, schedule: Schedule, lengths: Lengths) -> OnlineConfig:
    """The recipe of a cell."""
    batch = load_recipe(cluster.recipe).batch  # type: ignore[union-attr]
    assert isinstance(batch, BatchConfig)
    prompts = batch.prompts_per_step // cluster.part
    overrides = [
        *schedule.overrides,
        *_placement(cluster, schedule),
        f"batch.prompts_per_step={prompts}",
        f"batch.prompts_per_update={batch.prompts_per_update // cluster.part}",
        f"batch.prompts_per_generation={schedule.generation * prompts}",
        f"rollout.sampling.max_response_tokens={lengths.limit}",
        "logging.progress=false",
        "logging.rollouts=none",
    ]
    if schedule.puts_off:
        overrides.append(f"batch.put_off={{budget_tokens: {budget(lengths)}, until: {schedule.puts_off}}}")
    made = load_recipe(cluster.recipe, overrides)
    assert isinstance(made, OnlineConfig)
    return made


def simulate_cell(
    cluster: str, schedule: str, lengths: str, folder: Path, gpu: str = "H100", *, whole: bool = False
) -> Cell:
    """Simulate one cell.

    whole: the first step alone, at the cluster's whole size, with messages serialised and calls as long as the
    product's, to see what the driver takes.
    """
    where, how, drawn = CLUSTERS[cluster], SCHEDULES[schedule], load(lengths)
    if whole:
        where = dataclasses.replace(where, part=1, decoding_steps=MAX_DECODING_STEPS)
    config = config_of(where, how, drawn)
    costs = roofline(config, hardware(gpu))
    workload = Workload(drawn, outcomes())
    figures = simulate(
        config,
        workload,
        costs,
        1 if whole else how.steps,
        folder,
        barrier=how.barrier,
        pickles=whole,
        decoding_steps=where.decoding_steps,
    )
    return averaged(cluster, schedule, lengths, where.gpus // where.part, gpu, figures, how.skipped)


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
