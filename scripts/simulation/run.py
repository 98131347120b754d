"""A training run of the product's own parts on simulated workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.rollout import VllmEngineConfig
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.sinks import MetricLogger
from reasoner_rl.rewards.runner import RewardTask
from reasoner_rl.rollout.engine import MAX_DECODING_STEPS, GenerationRequest, Generator
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.train import prompt_sampler
from reasoner_rl.training.checkpoint import CheckpointStore
from reasoner_rl.types import Prompt, Reward
from simulation.barrier import BarrierGenerator
from simulation.costs import Costs
from simulation.lengths import Lengths, Outcome, Outcomes
from simulation.transport import SimulatedTransport

PROMPTS = 17_000  # of DAPO-Math-17K


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step took."""

    seconds: float  # virtual, from the end of the last step's sync to the end of this one's
    idle: float  # share of GPU-seconds in which a GPU computed nothing
    generating: float  # share of GPU-seconds
    training: float  # share of GPU-seconds
    rows: float  # responses that a replica drew side by side on average, while it drew
    drawn_tokens: int
    trained_tokens: int  # of responses
    generated_groups: int
    kept_groups: int
    put_off_groups: int
    driver_seconds: float  # real CPU seconds of the driver's code, messages included if they are pickled
    calls: int


class InstantRewards:
    """Scores responses at once, by what their prompt's ``extra_info`` says becomes of the group."""

    def score(
        self, tasks: Sequence[RewardTask], progress: Callable[[int], None] | None = None
    ) -> list[Reward]:
        """See `RewardRunner.score`."""
        if progress is not None:
            progress(len(tasks))
        rewards, seen = [], dict[int | None, int]()
        for task in tasks:
            number = seen[task.group] = seen.get(task.group, -1) + 1
            outcome: Outcome = task.extra_info["outcome"]
            accuracy = float(number % 2 == 0) if outcome == "mixed" else float(outcome == "right")
            rewards.append(Reward(accuracy, accuracy, {}))
        return rewards


@dataclass(frozen=True, slots=True)
class Workload:
    """What the simulated responses are like."""

    lengths: Lengths
    outcomes: Outcomes
    prompt_tokens: int = 200

    def prompts(self, count: int) -> list[Prompt]:
        """Prompts by number. The first token ids spell the number, by which a request's prompt is known again."""
        rest = (0,) * (self.prompt_tokens - 1)
        made = []
        for number in range(count):
            uid = f"p{number}"
            extra = {"outcome": self.outcomes.of_prompt(uid)}
            made.append(Prompt(uid, (number, *rest), "", "", "simulated", extra))
        return made

    def length_of(self, responses: int) -> Callable[[GenerationRequest, int], int]:
        """The length of a response by its request and number, for groups of so many."""
        known: dict[int, list[int]] = {}

        def length(request: GenerationRequest, sample: int) -> int:
            if request.seed not in known:
                uid = f"p{request.prompt_ids[0]}"
                known[request.seed] = self.lengths.of_group(request.seed, uid, responses)
            return known[request.seed][sample]

        return length


class _Collected:
    """A sink that keeps the metrics of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        self.steps.append(dict(values))

    def close(self) -> None:
        pass


def simulate(
    config: OnlineConfig,
    workload: Workload,
    costs: Costs,
    steps: int,
    folder: Path,
    *,
    barrier: bool = False,
    pickles: bool = False,
    decoding_steps: int = MAX_DECODING_STEPS,
    prompts: Sequence[Prompt] | None = None,
) -> list[StepFigures]:
    """Train for some steps on simulated workers; ``folder`` is for what a run writes, and stays empty."""
    engine = config.rollout.engine
    size = engine.tensor_parallel if isinstance(engine, VllmEngineConfig) else 1
    length_of = workload.length_of(config.rollout.responses_per_prompt)
    transport = SimulatedTransport(
        config.cluster.ranks,
        size,
        costs,
        length_of,
        pickles=pickles,
        decoding_steps=decoding_steps,
        generators=_generators(config),
    )
    algorithm = build_algorithm(config)
    workers, timer, collected = Workers(config, algorithm, transport), PhaseTimer(), _Collected()
    assert workers.pool is not None
    generator: Generator = BarrierGenerator(workers.pool) if barrier else workers.pool
    prompts = workload.prompts(PROMPTS) if prompts is None else prompts
    rewards = InstantRewards()
    source = OnlineSource(
        *(config, prompts, prompt_sampler(config, prompts), generator, rewards, timer),  # type: ignore[arg-type]
        goes_on=workers.generation_goes_on,
    )
    workers.while_waiting(source.advance)
    trainer = Trainer(
        config=config,
        algorithm=algorithm,
        source=source,
        workers=workers,
        evaluate_on=None,
        logger=MetricLogger([collected]),  # type: ignore[list-item]
        recorder=RolloutRecorder(folder, "none"),
        store=CheckpointStore(folder / "checkpoints", 1),
        timer=timer,
        state=DriverState(),
    )
    workers.publish(0)
    figures = []
    for _ in range(steps):
        figures.append(_step(trainer, transport, size, collected))
    return figures


def _generators(config: OnlineConfig) -> int:
    """Workers that generate alone."""
    cluster = config.cluster
    if not isinstance(cluster, RayClusterConfig) or cluster.generation is None:
        return 0
    return cluster.generation.nodes * cluster.generation.workers_per_node


def _step(trainer: Trainer, transport: SimulatedTransport, size: int, collected: _Collected) -> StepFigures:
    """One step, and what it took: the differences of what was spent."""
    spent, before = transport.spent, transport.clock.now
    busy, rows, tokens = dict(spent.busy), spent.row_seconds, spent.tokens
    calls, pickling, simulating = spent.calls, spent.pickling, spent.simulating
    started = time.process_time()
    trainer.step()
    real = time.process_time() - started - (spent.simulating - simulating) + spent.pickling - pickling
    seconds = transport.clock.now - before
    added = {phase: total - busy.get(phase, 0.0) for phase, total in spent.busy.items()}
    whole, metrics = seconds * transport.workers, collected.steps[-1]
    generating = added.get("generate", 0.0)
    return StepFigures(
        seconds=seconds,
        idle=1 - sum(added.values()) / whole,
        generating=generating / whole,
        training=added.get("train", 0.0) / whole,
        rows=(spent.row_seconds - rows) * size / generating if generating else 0.0,
        drawn_tokens=spent.tokens - tokens,
        trained_tokens=int(metrics.get("response/tokens", 0)),
        generated_groups=int(metrics["groups/generated"]),
        kept_groups=int(metrics["groups/kept"]),
        put_off_groups=int(metrics.get("groups/put_off", 0)),
        driver_seconds=real,
        calls=spent.calls - calls,
    )
