"""Reinforcement learning with fresh responses: GRPO, DAPO and their kin.

collect (prompts -> rollouts -> rewards) -> samples (advantages, logprobs) -> plan -> update -> publish
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from reasoner_rl.batching.plan import plan_updates
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.distributed.group import WorkerGroup
from reasoner_rl.distributed.launch import launch_workers
from reasoner_rl.errors import UserError
from reasoner_rl.loops.collect import ADVICE, Collected, GroupCollector, what_was_dropped
from reasoner_rl.loops.evaluate import Evaluator, load_held_out
from reasoner_rl.loops.finish import finish_run
from reasoner_rl.loops.resume import (
    TRAINING_DATA,
    check_data,
    check_records,
    checkpoint_to_resume,
    expect_checkpoints,
    save_recipe,
)
from reasoner_rl.loops.samples import make_samples
from reasoner_rl.loops.start import (
    StopRequest,
    begin_run,
    check_context,
    check_rewards,
    check_vocabulary,
    graceful_stop,
    load_prompts,
    output_folder,
    record_run,
    say,
    tell_evaluation_parameters,
)
from reasoner_rl.loops.state import DriverState, is_due
from reasoner_rl.metrics import Metrics, merge, values
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.sinks import MetricLogger, open_logger
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.training.checkpoint import CheckpointStore, reading
from reasoner_rl.types import ScoredGroup, TrainSample


@dataclass(frozen=True, slots=True)
class OnlineRun:
    """The parts of a run, wired together by `train`."""

    config: OnlineConfig
    workers: WorkerGroup
    collector: GroupCollector
    evaluator: Evaluator
    logger: MetricLogger
    recorder: RolloutRecorder
    store: CheckpointStore
    timer: PhaseTimer
    state: DriverState

    def step(self) -> None:
        """Make one training step, from prompts to published weights, and log it.

        A step that finds no group to train on leaves the weights as they are, and is logged like any other.
        """
        config, state, timer = self.config, self.state, self.timer
        timer.reset()
        number = state.step + 1
        with timer("step"):
            collected = self._collect(number)
            samples, trained = self._learn(collected.groups) if collected.groups else ([], {})
        tokens = {
            "generate": collected.generated_tokens,
            "update": config.batch.epochs * sum(sample.tokens for sample in samples),
        }
        metrics = values(merge([trained, collected.metrics, timer.metrics(tokens)]))
        self.logger.write(number, metrics)
        advantages = iter(float(sample.advantages[0]) for sample in samples)
        self.recorder.rollouts(
            number,
            collected.groups,
            [[next(advantages) for _ in group.rollouts] for group in collected.groups],
            collected.dropped,
        )
        state.step = number
        if not collected.groups:
            counts = {name.removeprefix("groups/"): number for name, number in metrics.items()}
            say(
                f"step {number} is skipped, without an update: none of the {counts['generated']:.0f} groups generated "
                f"can be trained on; {what_was_dropped(counts)}"
            )

    def _collect(self, step: int) -> Collected:
        """Collect a step's groups; if that cannot be done, what was learnt before is saved.

        A later error of the step is no reason to save: the weights may have changed without the step being finished.
        """
        try:
            return self.collector.collect(step, self.state.version)
        except UserError:
            self.save()
            raise

    def _learn(self, groups: Sequence[ScoredGroup]) -> tuple[list[TrainSample], Metrics]:
        """Update the weights on groups and publish them. Returns the samples, one a response, in order."""
        config, state, timer = self.config, self.state, self.timer
        samples = make_samples(groups, config, self.workers, state.version, timer)
        planned = plan_updates(
            samples,
            step_arithmetic(config).responses_per_update,
            config.batch.micro_batch_tokens,
            config.rollout.sampling.max_response_tokens,
            self.workers.shards,
        )
        with timer("update"):
            trained = self.workers.update([updates * config.batch.epochs for updates in planned])
        state.version += 1
        with timer("sync"):
            synced = self.workers.publish_weights(state.version)
        return samples, merge([synced, trained])

    def evaluate(self) -> None:
        """Evaluate the published weights on every held-out set, unless that was done after this step already."""
        if str(self.state.step) in self.state.evaluations:
            return
        timer = PhaseTimer()
        with timer("evaluate"):
            reports = self.evaluator.evaluate(self.workers, self.state.step)
        if reports:
            metrics = merge([*(report.metrics() for report in reports), timer.metrics()])
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
        self.state.sampler = self.collector.sampler.state()
        self.state.surplus = self.collector.surplus
        self.state.all_right = sorted(self.collector.all_right)

        def write(folder: Path) -> None:
            self.workers.save(folder)
            self.state.save(folder)
            save_recipe(self.config, folder)

        self.store.save(self.state.step, write)

    def restore(self, folder: Path) -> None:
        """Resume from a checkpoint of workers and driver; ``state`` was loaded from it already."""
        self.collector.sampler.restore(self.state.sampler)
        self.collector.surplus = self.state.surplus
        self.collector.all_right = set(self.state.all_right)
        self.workers.load(folder)

    def run(self, stop: StopRequest) -> bool:
        """Step until the end or a request to stop. Returns whether the end was reached."""
        config, state = self.config, self.state
        self.workers.publish_weights(state.version)
        if state.step == 0 and config.evaluation.at_start:
            self._count_seconds(self.evaluate)
        while not self._finished and not stop:
            self._count_seconds(self.step)
            at_end = self._finished and config.evaluation.at_end
            if is_due(state.step, config.evaluation.every_steps) or at_end:
                self._count_seconds(self.evaluate)
            if is_due(state.step, config.checkpoint.every_steps) or self._finished or stop:
                self.save()
        if self._finished:
            self._end()
        return self._finished

    @property
    def _finished(self) -> bool:
        """Whether all steps are made, or a further one could be of no use."""
        return self.collector.nothing_left or self.state.step >= self.config.run.steps

    def _end(self) -> None:
        """Say why a run ended before its last step, and evaluate if all its steps were made before.

        Raises UserError if nothing was trained for want of usable groups.
        """
        config, state = self.config, self.state
        if self.collector.nothing_left:
            say(
                f"all responses to all {len(self.collector.all_right)} prompts of {config.data.train.label} were right "
                f"in a whole pass over the data, and nothing is left to learn; the run ends after step {state.step}"
            )
        elif state.version == 0 and state.step > 0:
            raise UserError(
                f"none of the {state.step} steps found a group to train on: nothing was trained, and no weights are "
                f"exported. {ADVICE}"
            )
        if config.evaluation.at_end and str(state.step) not in state.evaluations:
            self._count_seconds(self.evaluate)
            self.save()

    def _count_seconds(self, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        self.state.seconds += time.perf_counter() - started


def train(config: OnlineConfig) -> dict[str, Any] | None:
    """`reasoner-rl train`: run the recipe to its end, resuming from its newest checkpoint if there is one.

    Returns the summary, also written to ``summary.json``, or None if the run was stopped before its end.
    """
    with output_folder(config.run) as output:
        store = CheckpointStore(output / "checkpoints", config.checkpoint.keep_last)
        newest = checkpoint_to_resume(config, store)
        begin_run(config)
        for name, number in step_arithmetic(config).rows():
            say(f"  {name:<32} {number}")
        return _train(config, output, store, newest)


def _train(
    config: OnlineConfig, output: Path, store: CheckpointStore, newest: tuple[int, Path] | None
) -> dict[str, Any] | None:
    tokenizer = load_tokenizer(config.model)
    prompts = load_prompts(config.data.train, config.data.prompts, tokenizer, show_first=True)
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    check_context(config.model, prompts, config.rollout.sampling.max_response_tokens)
    for problems in held_out:
        check_context(config.model, problems.prompts, config.evaluation_sampling.max_response_tokens)
    every_prompt = chain(prompts, *(problems.prompts for problems in held_out))
    check_vocabulary(
        config.model,
        tokenizer,
        chain.from_iterable(prompt.token_ids for prompt in every_prompt),
        (config.rollout.sampling, config.evaluation_sampling),
    )
    check_rewards(config.reward, prompts[0])
    if held_out:
        tell_evaluation_parameters(config.reward)
    sampler = PromptSampler(len(prompts), config.run.seed, config.data.shuffle)
    resume_step, state = None, DriverState()
    data = {TRAINING_DATA: fingerprint(prompts)}
    data |= {f"evaluation.datasets {each.name}": fingerprint(each.prompts) for each in held_out}
    if newest:
        resume_step = newest[0]
        with reading(newest[1]):
            state = DriverState.load(newest[1])
        check_records(output, state.step, config.logging.rollouts)
    check_data(state, data, newest)
    expect_checkpoints(config, store, state.step)
    record_run(config)
    timer, recorder = PhaseTimer(), RolloutRecorder(output, config.logging.rollouts)
    with (
        RewardRunner(config.reward, config.rollout.sampling.max_response_tokens) as rewards,
        open_logger(config.logging, output, total_steps=config.run.steps, resume_step=resume_step) as logger,
        graceful_stop() as stop,
        launch_workers(config, say) as workers,
    ):
        collector = GroupCollector(config, prompts, sampler, workers, rewards, timer)
        evaluator = Evaluator(config, held_out, rewards, recorder)
        run = OnlineRun(config, workers, collector, evaluator, logger, recorder, store, timer, state)
        if newest:
            run.restore(newest[1])
        if not run.run(stop):
            say(f"stopped after step {state.step}; the same command resumes from there")
            return None
        return finish_run(config, state, workers)
