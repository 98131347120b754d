"""`reasoner-rl train` and `reasoner-rl sft`: from a recipe to a finished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.launch import launch_rewards, launch_workers
from reasoner_rl.distributed.restarts import Restarts, let_go_of_workers
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import GoBackError, WorkerError
from reasoner_rl.observability.events import EVENTS, EventLog, recorded_events
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.sinks import CallbackSink, OnMetrics, open_logger
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.prompts.selection import SelectingSampler
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.sources.base import Source
from reasoner_rl.sources.offline import ExampleSource, ExampleStream
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.sources.selecting import labels_of, measured_outcomes
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.finish import LiveCurves, finish_run, tell_stopped
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loop import Report, Trainer
from reasoner_rl.trainer.reference import Reference, ReferenceSink
from reasoner_rl.trainer.reference_cache import with_precomputed_reference
from reasoner_rl.trainer.resume import (
    TRAINING_DATA,
    check_data,
    check_records,
    checkpoint_to_resume,
    expect_checkpoints,
)
from reasoner_rl.trainer.reward_models import PairEvaluator
from reasoner_rl.trainer.run_data import RunData, load_data, tell_recipe
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.stop import StopRequest, graceful_stop
from reasoner_rl.trainer.watch import go_back, watch_of
from reasoner_rl.training.checkpoint import CheckpointStore, reading
from reasoner_rl.types import Example, Prompt


@dataclass(frozen=True, slots=True)
class Observers:
    """Observers of a run, on which its results do not depend."""

    compare_to: Reference | None = None  # compared with at each step; the summary has the result
    # Called with the step and its metrics, and those of evaluations; again for steps that a restart repeats.
    on_metrics: OnMetrics | None = None
    timer: PhaseTimer = field(default_factory=PhaseTimer)  # measures the phases of every step


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One way from the newest checkpoint towards the end of the run."""

    output: Path
    observers: Observers
    stop: StopRequest  # outlasts the attempt
    restarts: int  # how many times workers were started anew in this command
    again: bool  # not the first of this command, which has made checkpoints of its own


def train(config: TrainConfig, observers: Observers | None = None) -> dict[str, Any] | None:
    """Run the recipe to its end, resuming from its newest checkpoint, and after alarms going back to earlier ones.

    Where workers die, hang or fail, they are started anew up to ``cluster.restarts`` times, and the run goes on as the
    same command would. Returns the summary, also written to ``summary.json``, or None if the run was stopped before
    its end. Raises DriftError where an alarm stops it.
    """
    config, observers = with_exported_models(config), observers or Observers()
    restarts, stop = Restarts(config.cluster), StopRequest()
    with output_folder(config.run) as output:
        again = False
        while True:
            try:
                return _attempt(config, _Attempt(output, observers, stop, restarts.made, again))
            except WorkerError as error:
                if stop:
                    raise
                said = restarts.take(error)
                _tell_restart(config, output, said)
            except GoBackError as back:
                go_back(back, output, _store(config, output))
            again = True


def _tell_restart(config: TrainConfig, output: Path, said: str) -> None:
    """Say and record from where the run goes on, and let go of what the last attempt held."""
    newest = _store(config, output).latest()
    step, place = newest or (0, "the beginning, for there is no checkpoint yet")
    text = f"{said}: the run resumes from {place}"
    say(text)
    EventLog(output / EVENTS, lambda: step).write("restart", text)
    let_go_of_workers()


def _store(config: TrainConfig, output: Path) -> CheckpointStore:
    return CheckpointStore(output / "checkpoints", config.checkpoint.keep_last)


def _attempt(config: TrainConfig, attempt: _Attempt) -> dict[str, Any] | None:
    """Run from the newest checkpoint to the end, or to a request to stop: see `train`."""
    store = _store(config, attempt.output)
    newest = checkpoint_to_resume(config, store, restarted=attempt.again)
    begin_run(config)
    tell_recipe(config)
    return _train(config, attempt, store, newest)


def _train(
    config: TrainConfig, attempt: _Attempt, store: CheckpointStore, newest: tuple[int, Path] | None
) -> dict[str, Any] | None:
    output, observers = attempt.output, attempt.observers
    data = load_data(config, load_tokenizer(config.model))
    state = _state_to_begin_with(config, output, newest[1] if newest else None)
    check_data(state, data.fingerprints(), newest)
    algorithm, timer = build_algorithm(config, mixed_in(config, data.mixed_in)), observers.timer
    expect_checkpoints(config, store, state.step, len(algorithm.losses))
    check_custom_parts(config)
    record_run(config)
    recorder = RolloutRecorder(output, config.logging.rollouts, config.logging.rollout_format)
    followed = [ReferenceSink(observers.compare_to, output, state.step)] if observers.compare_to else []
    called = [CallbackSink(observers.on_metrics)] if observers.on_metrics else []
    with ExitStack() as stack:
        events = stack.enter_context(recorded_events(output / EVENTS, lambda: state.step))
        events.write(
            "resume" if newest else "start", str(newest[1]) if newest else f"{config.run.steps} steps"
        )
        logger = stack.enter_context(
            open_logger(
                config.logging,
                output,
                total_steps=config.run.steps,
                resume_step=newest[0] if newest else None,
                more=[*followed, *called],
            )
        )
        stop = stack.enter_context(graceful_stop(attempt.stop))
        workers = stack.enter_context(launch_workers(config, algorithm, say, attempt.restarts))
        rewards = None
        if not isinstance(config, RewardModelConfig) and config.generates:
            limit = config.rollout.sampling.max_response_tokens
            rewards = stack.enter_context(launch_rewards(config.reward, limit))
        if isinstance(config, PreferenceConfig):
            # Before a checkpoint is loaded: the reference is the model at the start.
            policy = workers.models.policy
            rows = with_precomputed_reference(config, data.examples, state.data[TRAINING_DATA], policy)
            data = replace(data, rows=rows)
        source = build_source(config, data, workers, rewards, timer, state.returns)
        evaluate_on = build_evaluation(config, data, workers, rewards, recorder)
        trainer = Trainer(
            *(config, algorithm, source, workers, evaluate_on, logger, recorder, store, timer, state),
            refresh_curves=LiveCurves(output).refresh,
            watch=watch_of(config, output, state.step, events, store),
        )
        if newest:
            trainer.restore(newest[1])
        if not trainer.run(stop):
            events.write("stop", "on request, with a checkpoint")
            tell_stopped(output, state.step, store)
            return None
        more = {"restarts": attempt.restarts, **{sink.name: sink.summary() for sink in followed}}
        summary = finish_run(config, state, workers, more)
        events.write("end", f"after {state.seconds:.1f} seconds of steps and evaluations")
        return summary


def _state_to_begin_with(config: TrainConfig, output: Path, checkpoint: Path | None) -> DriverState:
    """That of the checkpoint, whose records must be there, or a new one."""
    if checkpoint is None:
        return DriverState()
    with reading(checkpoint):
        state = DriverState.load(checkpoint)
    records = config.logging.rollouts if isinstance(config, OnlineConfig) else "none"
    check_records(output, state.step, records, config.logging.rollout_format)
    return state


def mixed_in(config: TrainConfig, examples: Sequence[Example]) -> ExampleStream | None:
    """The examples of algorithm.ptx in their order, if the recipe has them."""
    if not isinstance(config, OnlineConfig) or config.algorithm.ptx is None:
        return None
    shuffle = config.algorithm.ptx.data.shuffle
    return ExampleStream(examples, OrderedSampler(len(examples), config.run.seed, shuffle))


def build_source(
    config: TrainConfig,
    data: RunData,
    workers: Workers,
    rewards: Rewards | None,
    timer: PhaseTimer,
    returns: int = 0,
) -> Source:
    """What the steps are made from. returns: how often the run has gone back after an alarm."""
    if isinstance(config, OnlineConfig):
        assert workers.pool is not None
        assert rewards is not None
        prompts = [row for row in data.rows if isinstance(row, Prompt)]
        sampler = prompt_sampler(config, prompts)
        judge = data.judge(workers.reward_model) if data.judge and workers.reward_model else None
        source = OnlineSource(
            *(config, prompts, sampler, workers.pool, rewards, timer, judge),
            goes_on=workers.generation_goes_on,
            returns=returns,
        )
        workers.while_waiting(source.advance)
        return source
    order = OrderedSampler(len(data.rows), config.run.seed, config.data.shuffle)
    return ExampleSource(ExampleStream(data.examples, order), config.batch.examples_per_step)


def prompt_sampler(config: OnlineConfig, prompts: Sequence[Prompt]) -> OrderedSampler | SelectingSampler:
    """The order of the prompts: epoch after epoch, or by what the run has seen of them."""
    selection = config.data.selection
    if selection is None:
        return OrderedSampler(len(prompts), config.run.seed, config.data.shuffle)
    measured = measured_outcomes(prompts) if selection.use_measured else []
    group_size = config.rollout.responses_per_prompt
    labels = labels_of(prompts, selection.group_by)
    return SelectingSampler(len(prompts), config.run.seed, group_size, selection, measured, labels)


def build_evaluation(
    config: TrainConfig,
    data: RunData,
    workers: Workers,
    rewards: Rewards | None,
    recorder: RolloutRecorder,
) -> Callable[[int], Sequence[Report]] | None:
    """What evaluates the present weights after a number of steps: on problems, or of a reward model on pairs."""
    if isinstance(config, RewardModelConfig):
        assert workers.reward_model is not None
        return PairEvaluator(config, data.held_out_pairs, workers.reward_model, data.comparer).evaluate
    if rewards is None or workers.pool is None:
        return None
    return partial(Evaluator(config, data.held_out, rewards, recorder).evaluate, workers.pool)
