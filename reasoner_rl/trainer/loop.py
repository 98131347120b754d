"""The one training loop, of every algorithm, online and offline.

batch   = source.next(step, version)             # online: prompts, rollouts, rewards, filter; offline: examples
samples = algorithm.prepare(samples, models)     # logprobs, values, advantages: what the losses need
metrics = algorithm.update(samples, models)      # mini-batches x micro-batches, global denominators
workers.publish(version)                         # only where something generates
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm
from reasoner_rl.algorithms.build import own_functions
from reasoner_rl.algorithms.dry_run import check_prepared
from reasoner_rl.config.recipes import TrainConfig
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.errors import DriftError, UserError
from reasoner_rl.metrics import Metrics, merge, values
from reasoner_rl.observability.measurements import PhaseTimer, driver_memory_metrics
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.sinks import MetricLogger
from reasoner_rl.observability.trace import trace_file, traced
from reasoner_rl.observability.trends import Alarm
from reasoner_rl.sources.base import Source, StepBatch
from reasoner_rl.sources.online import ADVICE
from reasoner_rl.trainer.resume import save_recipe
from reasoner_rl.trainer.state import DriverState, is_due
from reasoner_rl.trainer.stop import StopRequest
from reasoner_rl.trainer.watch import Watch
from reasoner_rl.training.checkpoint import CheckpointStore, reading
from reasoner_rl.types import TrainSample


class Report(Protocol):
    """What an evaluation found on one dataset."""

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        ...

    def metrics(self) -> Metrics:
        """What is logged of it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All of it by name."""
        ...


@dataclass(frozen=True, slots=True)
class Trainer:
    """The parts of a run, wired together by `reasoner_rl.trainer.train`."""

    config: TrainConfig
    algorithm: Algorithm
    source: Source
    workers: Workers
    # Evaluates the present weights after so many steps; None: the run has nothing to evaluate with.
    evaluate_on: Callable[[int], Sequence[Report]] | None
    logger: MetricLogger
    recorder: RolloutRecorder
    store: CheckpointStore
    timer: PhaseTimer
    state: DriverState
    refresh_curves: Callable[[], None] = lambda: None  # called after an evaluation or a checkpoint
    watch: Watch | None = None  # over the run's trends; None: nothing is watched

    def step(self) -> None:
        """Make one training step, from a batch to published weights, and log it.

        A step that finds nothing to train on leaves the weights as they are, and is logged like any other.
        """
        state, timer, models = self.state, self.timer, self.workers.models
        timer.reset()
        number, measured, recorded = state.step + 1, list[Metrics](), list[TrainSample]()
        with traced(self._trace_file(number)), timer("step"):
            batch = self._next_batch(number)
            samples = batch.samples
            if samples:
                own = own_functions(self.config)
                with timer("prepare"):
                    returned = self.algorithm.prepare(samples, models)
                    if own:  # what it gives for real samples may be wrong too
                        check_prepared(f"step {number}: {own}", samples, returned)
                    samples, prepared = returned
                    recorded = self._recorded(samples)
                with timer("update"):
                    updated = self._update(number, samples, own)
                state.version += 1
                with timer("sync"):
                    synced = self._publish()
                measured = [synced, prepared, updated]
        numbers = self._log(number, batch, recorded, measured)
        state.step = number
        if self.watch is not None and (alarms := self.watch.alarms(number, numbers)):
            self._heed(self.watch, alarms, batch, recorded)

    def _heed(self, watch: Watch, alarms: list[Alarm], batch: StepBatch, samples: list[TrainSample]) -> None:
        """Tell alarms with their evidence; raises DriftError or GoBackError where the recipe has more done."""
        logprobs: list[Tensor] = []
        if watch.needs_logprobs(alarms, samples):
            self.source.pause()
            logprobs = self.workers.models.policy.logprobs(samples)
            self._publish()
        alarms = watch.tell(alarms, batch, samples, logprobs)
        if watch.config.on_alarm == "tell":
            return
        ended = watch.end_of_attempt(alarms, self.state.returns)
        if isinstance(ended, DriftError):
            watch.forget_alarmed()
            self._save_into(watch.alarmed)
        raise ended

    def _publish(self) -> Metrics:
        if not self.source.generates:
            return {}
        return self.workers.publish(self.state.version, self.source.before_new_weights)

    def _trace_file(self, step: int) -> Path | None:
        run = self.config.run
        return trace_file(run.output_dir, step) if step in run.profile else None

    def _recorded(self, samples: list[TrainSample]) -> list[TrainSample]:
        """The samples of the step's record, with entropies if the recipe asks for them."""
        if not (self.config.logging.entropies and self.source.generates):
            return samples
        entropies = self.workers.models.policy.entropies(samples)
        return [s.replace(entropies=each) for s, each in zip(samples, entropies, strict=True)]

    def _update(self, step: int, samples: list[TrainSample], own: str) -> Metrics:
        """Train on prepared samples. ``own``: the user's functions, which may be what makes a gradient not finite."""
        try:
            return self.algorithm.update(samples, self.workers.models)
        except FloatingPointError as error:
            if not own:
                raise
            raise FloatingPointError(
                f"step {step}: {error}, and what is not finite may come from {own}"
            ) from error

    def _next_batch(self, step: int) -> StepBatch:
        """The batch of a step; if it cannot be made, what was learnt before is saved.

        A later error of the step is no reason to save: the weights may have changed without the step being finished.
        """
        try:
            return self.source.next(step, self.state.version)
        except UserError:
            self.save()
            raise

    def _log(
        self, step: int, batch: StepBatch, samples: list[TrainSample], measured: list[Metrics]
    ) -> dict[str, float]:
        """Log and record a step; returns its numbers."""
        tokens = {"update": self.config.batch.epochs * sum(sample.tokens for sample in samples)}
        if self.source.generates:
            tokens["generate"] = batch.generated_tokens
        parts = [*measured, batch.metrics, self.timer.metrics(tokens), driver_memory_metrics()]
        numbers = values(merge(parts))
        self.logger.write(step, numbers)
        if self.source.generates:
            self.recorder.rollouts(step, batch.groups, samples, batch.dropped)
        else:
            self.recorder.forget_later_evaluations(step)
        if batch.warning:
            say(f"warning: step {step}: {batch.warning}")
        if batch.skipped_because:
            say(f"step {step} is skipped, without an update: {batch.skipped_because}")
        return numbers

    def evaluate(self) -> None:
        """Evaluate the present weights on every held-out set, unless that was done after this step already."""
        if self.evaluate_on is None or str(self.state.step) in self.state.evaluations:
            return
        synced: Metrics = {}
        if self.workers.pool is not None and not self.source.generates:
            synced = self.workers.publish(self.state.version)
        self.source.pause()
        timer = PhaseTimer()
        with timer("evaluate"):
            reports = self.evaluate_on(self.state.step)
        if reports:
            metrics = merge([synced, *(report.metrics() for report in reports), timer.metrics()])
            self.logger.write(self.state.step, values(metrics))
        self.state.evaluations[str(self.state.step)] = {
            report.dataset: report.to_json() for report in reports
        }

    def save(self) -> None:
        """Write a checkpoint of workers and driver, if there was a step at all.

        Where the step has a checkpoint, what has happened since is added to it.
        """
        if self.state.step == 0:
            return
        if self.store.holds(self.state.step):
            self.state.save_later(self.store.folder_of(self.state.step))
            return
        self._save_into(self.store)

    def _save_into(self, store: CheckpointStore) -> None:
        self.source.pause()
        self.state.source, self.state.algorithm = self.source.state(), self.algorithm.state()

        def write(folder: Path) -> None:
            self.workers.save(folder)
            self.state.save(folder)
            self.source.save(folder, self.state.step)
            save_recipe(self.config, folder)

        store.save(self.state.step, write)

    def restore(self, folder: Path) -> None:
        """Resume from a checkpoint of workers and driver; ``state`` was loaded from it already."""
        with reading(folder):
            self.source.restore(self.state.source, folder)
            self.algorithm.restore(self.state.algorithm)
        for line in self.workers.load(folder):
            say(f"  {line}")

    def run(self, stop: StopRequest) -> bool:
        """Step until the end or a request to stop. Returns whether the end was reached."""
        evaluation, every_steps = self.config.evaluation, self.config.checkpoint.every_steps
        state = self.state
        if state.step >= self.config.run.steps > 0:
            say(
                f"all {state.step} steps were made before: nothing is left to train. A higher run.steps continues the "
                "run, another run.output_dir starts anew"
            )
        if self.source.generates:
            self.workers.publish(state.version)
        if state.step == 0 and evaluation.at_start:
            self._count_seconds(self.evaluate)
        while not self.finished and not stop:
            self._count_seconds(self.step)
            at_end = self.finished and evaluation.at_end
            evaluates = is_due(state.step, evaluation.every_steps) or at_end
            if evaluates:
                self._count_seconds(self.evaluate)
            saves = is_due(state.step, every_steps) or self.finished or bool(stop)
            if saves:
                self.save()
            if evaluates or saves:
                self.refresh_curves()
        if self.finished:
            self._end()
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether all steps are made, or a further one could be of no use."""
        return self.state.step >= self.config.run.steps or self.source.end() is not None

    def _end(self) -> None:
        """Say why a run ended before its last step, and evaluate if all its steps were made before.

        Raises UserError if nothing was trained because no step had usable groups.
        """
        state = self.state
        if reason := self.source.end():
            say(f"{reason}; the run ends after step {state.step}")
        elif state.version == 0 and state.step > 0:
            raise UserError(
                f"none of the {state.step} steps found a group to train on: nothing was trained, and no weights are "
                f"exported. {ADVICE}"
            )
        if self.config.evaluation.at_end and str(state.step) not in state.evaluations:
            self._count_seconds(self.evaluate)
            self.save()

    def _count_seconds(self, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        self.state.seconds += time.perf_counter() - started
