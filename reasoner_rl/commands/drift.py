"""`reasoner-rl drift`: steps with learning rate 0, after which nothing may have moved.

Prompts, generation, verifiers, loss, optimizer and weight sync are those of training. The weights must stay what they
are to the bit, so accuracy, the gap of logprobs between engine and trainer, and the gap after a sync must be flat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.commands.drift_report import (
    Accuracies,
    DriftReport,
    StepReport,
    WorstToken,
    problems_of,
    step_report,
)
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.drift import DriftConfig
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.distributed.launch import launch_rewards, launch_workers
from reasoner_rl.errors import ConfigError
from reasoner_rl.hybrid.layers import ONLY
from reasoner_rl.metrics import Metrics
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.rollout_rows import Row
from reasoner_rl.observability.rollout_table import read_rows
from reasoner_rl.observability.sinks import open_logger, read_jsonl
from reasoner_rl.observability.token_gaps import Floats, ResponseGaps, gaps_by_token, gaps_of, worst_responses
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.run_data import load_data, tell_recipe
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.train import build_source
from reasoner_rl.trainer.watch import limits_of
from reasoner_rl.training.checkpoint import CheckpointStore
from reasoner_rl.types import TrainSample

SHOWN_TOKENS = 8


def check_drift(config: OnlineConfig, steps: int, folder: Path, *, layers: bool = False) -> DriftReport:
    """Make steps with learning rate 0 in ``folder``, which must be empty or new, and say what has moved.

    layers: also compare the engines layer by layer on the response with the largest gap. Raises ConfigError if the
    folder holds something, or if layers cannot be compared with this recipe.
    """
    apart = isinstance(config.cluster, RayClusterConfig) and config.cluster.generation is not None
    kinds = (config.rollout.engine.kind, config.training.backend.kind)
    if layers and (kinds != ("hf", "fsdp") or apart):
        raise ConfigError(f"--layers: {ONLY}; they are {' and '.join(kinds)}")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--out={folder}: must be an empty folder, or a new one; it holds files")
    config = with_exported_models(at_rate_zero(config, steps, folder))
    with output_folder(config.run, "--out"):
        begin_run(config)
        tell_recipe(config)
        return _check(config, layers)


def at_rate_zero(config: OnlineConfig, steps: int, folder: Path) -> OnlineConfig:
    """The recipe with learning rate 0, that trains on every group, and neither evaluates nor writes weights."""
    still = {"lr": 0.0}  # not a rate that a recipe may have
    training = config.training.model_copy(
        update={"optimizer": config.training.optimizer.model_copy(update=still)}
    )
    critic = config.critic and config.critic.model_copy(
        update={"optimizer": config.critic.optimizer.model_copy(update=still)}
    )
    sampling = config.algorithm.dynamic_sampling.model_copy(update={"enabled": False})
    logging = {"tensorboard": False, "wandb": None, "rollouts": "all", "rollout_format": "parquet"}
    evaluation: dict[str, Any] = {"datasets": [], "every_steps": None, "at_start": False, "at_end": False}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"output_dir": folder, "steps": steps, "profile": []}),
            "training": training,
            "critic": critic,
            "algorithm": config.algorithm.model_copy(update={"dynamic_sampling": sampling}),
            "batch": config.batch.model_copy(update={"prompts_per_generation": None}),
            "logging": config.logging.model_copy(update=logging),
            "evaluation": config.evaluation.model_copy(update=evaluation),
        }
    )


class _Measured(Algorithm):
    """The recipe's algorithm, and the trainer's logprobs of every response before the update."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self.roles, self.losses = algorithm.roles, algorithm.losses
        self.entropy_gradient = algorithm.entropy_gradient
        self.refreshes_reference = algorithm.refreshes_reference
        self.gaps: list[Floats] = []  # of each sample of the step, [R]

    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        trainer = models.policy.logprobs(samples)
        self.gaps = [gaps_of(t, s.rollout_logprobs) for t, s in zip(trainer, samples, strict=True)]
        return self._algorithm.prepare(samples, models)

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        return self._algorithm.update(samples, models)


def _check(config: OnlineConfig, layers: bool) -> DriftReport:
    output, timer, tokenizer = config.run.output_dir, PhaseTimer(), load_tokenizer(config.model)
    data = load_data(config, tokenizer)
    algorithm = _Measured(build_algorithm(config))
    check_custom_parts(config)
    record_run(config)
    responses, reports = list[ResponseGaps](), list[StepReport]()
    with ExitStack() as stack:
        logger = stack.enter_context(open_logger(config.logging, output, total_steps=config.run.steps))
        workers = stack.enter_context(launch_workers(config, algorithm, say))
        limit = config.rollout.sampling.max_response_tokens
        rewards = stack.enter_context(launch_rewards(config.reward, limit))
        source = build_source(config, data, workers, rewards, timer)
        store = CheckpointStore(output / "checkpoints", 1)
        recorder = RolloutRecorder(output, "all", "parquet")
        trainer = Trainer(
            *(config, algorithm, source, workers, None, logger, recorder, store, timer, DriverState())
        )
        before = workers.policy_hash()
        workers.publish(0)
        for step in range(1, config.run.steps + 1):
            trainer.step()
            recorded = list(read_rows(output / "rollouts" / f"step_{step:06d}.parquet"))
            responses += _response_gaps(recorded, algorithm.gaps)
            [row] = [row for row in read_jsonl(output / "metrics.jsonl") if row["step"] == step]
            reports.append(step_report(row, _accuracies(recorded)))
        source.pause()
        parts = workers.part_gaps(_sequence_of(worst_responses(responses, 1)[0])) if layers else []
        same = workers.policy_hash() == before
    problems = problems_of(reports, read_jsonl(output / "metrics.jsonl"), _limits(config), same_weights=same)
    parted = next((part for part in parts if part.parted), None)
    if parted is not None:
        problems.append(
            f"layers: engine and trainer part at {parted.name} (relative gap {parted.relative:.2g}, most at token "
            f"{parted.position})"
        )
    worst = [
        WorstToken(found, repr(tokenizer.decode([found.key])))
        for found in gaps_by_token(responses, SHOWN_TOKENS)
    ]
    return DriftReport(reports, responses, worst, problems, parts)


def _limits(config: OnlineConfig) -> DriftConfig:
    """Those of the recipe, or the defaults where it watches nothing."""
    return limits_of(config) or limits_of(config.model_copy(update={"drift": DriftConfig()})) or DriftConfig()


def _accuracies(rows: Sequence[Row]) -> Accuracies | None:
    """By problem and sample; None if there is a response of which it is not known."""
    if any(row["accuracy"] is None for row in rows):
        return None
    return [[row["accuracy"] for row in group] for _, group in groupby(rows, key=lambda row: row["group"])]


def _response_gaps(rows: Sequence[Row], gaps: Sequence[Floats]) -> Iterator[ResponseGaps]:
    sample, group = 0, -1
    for row, own in zip(rows, gaps, strict=True):
        sample, group = (sample + 1 if row["group"] == group else 0), row["group"]
        yield ResponseGaps(row["step"], row["uid"], sample, row["prompt_ids"], row["token_ids"], own)


def _sequence_of(response: ResponseGaps) -> list[int]:
    return [*map(int, response.prompt_ids), *map(int, response.token_ids)]
