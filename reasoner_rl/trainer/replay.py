"""A recorded step made again, in one process, from the checkpoint before it and the responses that the run recorded.

checkpoint before the step  ->  every step since, from its records (offline: from the data)  ->  the step, compared
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.config.cluster import LocalClusterConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.distributed.launch import launch_models
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.metrics import merge, values
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.sources.base import Source, StepBatch
from reasoner_rl.sources.offline import ExampleStream
from reasoner_rl.sources.samples import samples_of
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.folder import begin_run
from reasoner_rl.trainer.loading import load_mixed_in
from reasoner_rl.trainer.reference_cache import with_precomputed_reference
from reasoner_rl.trainer.resume import TRAINING_DATA, check_data
from reasoner_rl.trainer.run_data import RunData, load_data
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.train import build_source, mixed_in
from reasoner_rl.training.checkpoint import CheckpointStore, reading, verify
from reasoner_rl.types import ScoredGroup, TrainSample

_TRAINS = (OnlineConfig, SftConfig, PreferenceConfig, RewardModelConfig)
_REMEDY = "An earlier step may have a checkpoint before it that is whole"
_LAYOUT = ("tensor_parallel", "pipeline_parallel", "virtual_stages", "context_parallel", "expert_parallel")


@dataclass(frozen=True, slots=True)
class Recording:
    """What a run has kept of a step."""

    run: Path
    step: int
    config: TrainConfig  # the recipe that the step was made under
    checkpoint: (
        tuple[int, Path] | None
    )  # the newest before the step; None: the models as the run began with them
    logged: Mapping[int, Mapping[str, float]]  # the metrics of the steps since the checkpoint, by step

    @property
    def first(self) -> int:
        """The step that follows the checkpoint."""
        return self.checkpoint[0] + 1 if self.checkpoint else 1


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """What a step has given this time."""

    metrics: dict[str, float]  # of what the algorithm prepared and updated, by the names in metrics.jsonl
    groups: list[ScoredGroup]  # none in a run that learns from examples
    samples: list[TrainSample]  # as they were prepared


def find_recording(run: Path, step: int) -> Recording:
    """What a run's folder has of a step. Raises ConfigError or DataError naming what is not there or was deleted."""
    if not (run / "recipe.yaml").is_file():
        raise ConfigError(f"{run} is no run: it has no recipe.yaml")
    checkpoints = CheckpointStore(run / "checkpoints", 1).all()
    rows = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl") if "time/step" in row}
    if step not in rows:
        known = f"it has steps {min(rows)} to {max(rows)}" if rows else "it has none"
        raise ConfigError(f"{run / 'metrics.jsonl'} has no step {step}; {known}")
    # A recipe can change where a run resumes. The first checkpoint at or after the step has the one it was made under.
    after = next((folder for number, folder in checkpoints if number >= step), run)
    config = load_recipe(after / "recipe.yaml")
    if not isinstance(config, _TRAINS):
        raise ConfigError(f"{run} is of a recipe of kind {config.recipe!r}: steps are of a run that trains")
    before = [(number, folder) for number, folder in checkpoints if number < step]
    recording = Recording(run, step, config, before[-1] if before else None, rows)
    for each in range(recording.first, step + 1):
        if each not in rows:
            raise DataError(f"{run / 'metrics.jsonl'} has no row of step {each}, and step {step} follows it")
        if isinstance(config, OnlineConfig) and not record_of(run, each).exists():
            raise DataError(_missing_record(recording, each))
    return recording


def record_of(run: Path, step: int) -> Path:
    """The file of the responses that a step was trained on."""
    return run / "rollouts" / f"step_{step:06d}.parquet"


def _missing_record(recording: Recording, step: int) -> str:
    start = (
        f"the checkpoint of step {recording.checkpoint[0]}"
        if recording.checkpoint
        else "the model that the run began with, because no checkpoint before it is left (checkpoint.keep_last)"
    )
    return (
        f"{record_of(recording.run, step)} does not exist: step {recording.step} is reached from {start} through the "
        f"responses of all steps between. logging.rollouts=all and logging.rollout_format=parquet or both keep them"
    )


class Replay:
    """A run's models at some step, which go on as it did."""

    def __init__(
        self,
        workers: Workers,
        algorithm: Algorithm,
        state: DriverState,
        next_batch: Callable[[int, int], StepBatch],
        source_state: Callable[[], dict[str, Any]],
    ) -> None:
        """next_batch: called with the step and the version of the policy; see `Source.next`."""
        self._workers, self._algorithm, self._state = workers, algorithm, state
        self._next_batch, self._source_state = next_batch, source_state

    def step(self) -> ReplayedStep:
        """Make the next step. One that was skipped changes nothing and has no metrics."""
        state, models = self._state, self._workers.models
        batch = self._next_batch(state.step + 1, state.version)
        state.step += 1
        if not batch.samples:
            return ReplayedStep({}, batch.groups, [])
        samples, prepared = self._algorithm.prepare(batch.samples, models)
        updated = self._algorithm.update(samples, models)
        state.version += 1
        return ReplayedStep(values(merge([prepared, updated])), batch.groups, samples)

    def save(self, folder: Path) -> None:
        """Write what another `replaying` can begin with."""
        self._state.source, self._state.algorithm = self._source_state(), self._algorithm.state()
        self._workers.save(folder)
        self._state.save(folder)


Change = Callable[
    [list[ScoredGroup]], list[ScoredGroup]
]  # what is trained on instead of the groups of a step


@contextmanager
def replaying(recording: Recording, change: Change = lambda groups: groups) -> Iterator[Replay]:
    """The run's models as the recording's checkpoint has them, in this process, without what generates.

    change: called with the recorded groups of a step. Raises UserError if the checkpoint is damaged.
    """
    config = in_one_process(with_exported_models(recording.config))
    begin_run(config)
    state = DriverState()
    folder = recording.checkpoint[1] if recording.checkpoint else None
    if folder is not None:
        verify(folder, _REMEDY)
        with reading(folder, _REMEDY):
            state = DriverState.load(folder)
    data = None if isinstance(config, OnlineConfig) else _data(config, state, recording)
    algorithm = build_algorithm(config, _mixed_in(config))
    with launch_models(config, algorithm) as workers:
        if data is None:
            recorded = _RecordedSteps(recording.run, change)
            replay = Replay(workers, algorithm, state, recorded.next, dict)
        else:
            source = _examples(config, data, state, workers)
            if folder is not None:
                source.restore(state.source, folder)
            replay = Replay(workers, algorithm, state, source.next, source.state)
        if folder is not None:
            with reading(folder, _REMEDY):
                algorithm.restore(state.algorithm)
            workers.load(folder)
        yield replay


@dataclass(frozen=True, slots=True)
class _RecordedSteps:
    """The batches of an online run."""

    run: Path
    change: Change

    def next(self, step: int, version: int) -> StepBatch:
        table = read_rollouts(record_of(self.run, step))
        groups = self.change(groups_of(table))
        weights = dict(zip(table["uid"].to_pylist(), table["weight"].to_pylist(), strict=True))
        by_group = [1.0 if (weight := weights[group.prompt.uid]) is None else weight for group in groups]
        return StepBatch(samples_of(groups, version, by_group), groups=groups)


def trained_roles(config: TrainConfig) -> list[str]:
    """The models that a run of the recipe trains."""
    return sorted(build_algorithm(config).losses)


def in_one_process(config: TrainConfig) -> TrainConfig:
    """The recipe on one worker, which holds whole models."""
    backend = config.training.backend
    if isinstance(backend, FsdpBackendConfig):
        alone: Any = backend.model_copy(update={"shard_ranks": None})
    else:
        alone = backend.model_copy(update=dict.fromkeys(_LAYOUT, 1))
    training = config.training.model_copy(update={"backend": alone})
    return config.model_copy(update={"cluster": LocalClusterConfig(), "training": training})


def _data(config: TrainConfig, state: DriverState, recording: Recording) -> RunData:
    """The examples of a run that learns from them, which must be those of the checkpoint."""
    data = load_data(config, load_tokenizer(config.model))
    check_data(replace(state), data.fingerprints(), recording.checkpoint)
    state.data = {name: dict(found) for name, found in data.fingerprints().items()}
    return data


def _examples(config: TrainConfig, data: RunData, state: DriverState, workers: Workers) -> Source:
    if isinstance(config, PreferenceConfig):
        # Before a checkpoint is loaded: the reference is the model at the start.
        policy = workers.models.policy
        rows = with_precomputed_reference(config, data.examples, state.data[TRAINING_DATA], policy)
        data = replace(data, rows=rows)
    return build_source(config, data, workers, None, PhaseTimer())


def _mixed_in(config: TrainConfig) -> ExampleStream | None:
    if not isinstance(config, OnlineConfig) or config.algorithm.ptx is None:
        return None
    examples = load_mixed_in(config.algorithm.ptx, config.model, load_tokenizer(config.model))
    return mixed_in(config, examples)


def tell_start(recording: Recording) -> None:
    """Say from where the step is reached."""
    steps = recording.step - recording.first
    through = f", through the {steps} recorded steps between" if steps else ""
    start = recording.checkpoint[1] if recording.checkpoint else recording.config.model.path
    say(f"step {recording.step} of {recording.run} is made again from {start}{through}")
