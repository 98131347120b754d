"""`reasoner-rl train` and `reasoner-rl sft`: from a recipe to a finished run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, TrainConfig
from reasoner_rl.distributed.hub import models_of
from reasoner_rl.distributed.launch import launch_workers
from reasoner_rl.distributed.workers import Workers
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.sinks import open_logger
from reasoner_rl.prompts.fingerprint import Fingerprint, fingerprint
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.base import Source
from reasoner_rl.sources.offline import ExampleSource, ExampleStream
from reasoner_rl.sources.online import OnlineSource
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.finish import finish_run
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loading import (
    HeldOut,
    check_context,
    check_examples_fit,
    check_other_model,
    check_rewards,
    check_same_tokenizer,
    check_vocabulary,
    load_examples,
    load_held_out,
    load_judged,
    load_mixed_in,
    load_prompts,
    tell_evaluation_parameters,
    tell_switched_off,
    tell_unused_sections,
)
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.reference_cache import with_precomputed_reference
from reasoner_rl.trainer.resume import (
    MIXED_IN_DATA,
    TRAINING_DATA,
    check_data,
    check_records,
    checkpoint_to_resume,
    expect_checkpoints,
)
from reasoner_rl.trainer.state import DriverState
from reasoner_rl.trainer.stop import graceful_stop
from reasoner_rl.training.checkpoint import CheckpointStore, reading
from reasoner_rl.types import Example, Prompt


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads before it starts."""

    rows: list[Prompt] | list[Example]  # prompts to answer, or examples
    held_out: list[HeldOut]
    mixed_in: list[Example] = field(default_factory=list)  # examples of algorithm.ptx

    @property
    def examples(self) -> list[Example]:
        """The rows of a run that learns from examples."""
        return [row for row in self.rows if not isinstance(row, Prompt)]

    def fingerprints(self) -> dict[str, Fingerprint]:
        """By the name that a message gives the data."""
        found = {TRAINING_DATA: fingerprint(self.rows)}
        if self.mixed_in:
            found[MIXED_IN_DATA] = fingerprint(self.mixed_in)
        return found | {
            f"evaluation.datasets {each.name}": fingerprint(each.prompts) for each in self.held_out
        }


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Run the recipe to its end, resuming from its newest checkpoint.

    Returns the summary, also written to ``summary.json``, or None if the run was stopped before its end.
    """
    with output_folder(config.run) as output:
        store = CheckpointStore(output / "checkpoints", config.checkpoint.keep_last)
        newest = checkpoint_to_resume(config, store)
        begin_run(config)
        tell_switched_off(config)
        if isinstance(config, OnlineConfig):
            for name, number in step_arithmetic(config).rows():
                say(f"  {name:<32} {number}")
        return _train(config, output, store, newest)


def _train(
    config: TrainConfig, output: Path, store: CheckpointStore, newest: tuple[int, Path] | None
) -> dict[str, Any] | None:
    data = load_data(config, load_tokenizer(config.model))
    state = DriverState()
    records = config.logging.rollouts if isinstance(config, OnlineConfig) else "none"
    if newest:
        with reading(newest[1]):
            state = DriverState.load(newest[1])
        check_records(output, state.step, records, config.logging.rollout_format)
    check_data(state, data.fingerprints(), newest)
    algorithm, timer = build_algorithm(config, _mixed_in(config, data)), PhaseTimer()
    expect_checkpoints(config, store, state.step, len(algorithm.losses))
    check_custom_parts(config)
    record_run(config)
    recorder = RolloutRecorder(output, config.logging.rollouts, config.logging.rollout_format)
    with ExitStack() as stack:
        rewards = None
        if config.generates:
            limit = config.rollout.sampling.max_response_tokens
            rewards = stack.enter_context(RewardRunner(config.reward, limit))
        logger = stack.enter_context(
            open_logger(
                config.logging,
                output,
                total_steps=config.run.steps,
                resume_step=newest[0] if newest else None,
            )
        )
        stop = stack.enter_context(graceful_stop())
        workers = stack.enter_context(launch_workers(config, algorithm, say))
        if isinstance(
            config, PreferenceConfig
        ):  # before a checkpoint is loaded: the reference is the model at the start
            data = replace(
                data,
                rows=with_precomputed_reference(
                    config, data.examples, state.data[TRAINING_DATA], workers.models.policy
                ),
            )
        source = build_source(config, data, workers, rewards, timer)
        evaluator = Evaluator(config, data.held_out, rewards, recorder) if rewards else None
        trainer = Trainer(
            config, algorithm, source, workers, evaluator, logger, recorder, store, timer, state
        )
        if newest:
            trainer.restore(newest[1])
        if not trainer.run(stop):
            say(f"stopped after step {state.step}; the same command resumes from there")
            return None
        return finish_run(config, state, workers)


def load_data(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """Read training and held-out data, and check that the model, its context and the reward functions fit them."""
    mixed_in: list[Example] = []
    if isinstance(config, OnlineConfig):
        prompts = load_prompts(config.data.train, config.data.prompts, tokenizer, show_first=True)
        check_context(config.model, prompts, config.rollout.sampling.max_response_tokens)
        limit = config.rollout.sampling.max_response_tokens
        for section, model in _other_models(config).items():
            check_other_model(section, model, config.model, tokenizer)
            check_context(model, prompts, limit)
        if config.teacher_model is not None:
            check_same_tokenizer("teacher", config.teacher_model, tokenizer)
        if config.algorithm.ptx is not None:
            mixed_in = load_mixed_in(config.algorithm.ptx, config.model, tokenizer)
        rows: list[Prompt] | list[Example] = prompts
    else:
        if isinstance(config, PreferenceConfig):
            examples = load_judged(config, tokenizer)
        else:
            examples = load_examples(config.data, tokenizer)
        rows = examples
        mismatched = isinstance(config.algorithm, KtoConfig)
        check_examples_fit(config.model, examples, mismatched=mismatched)
        for section, model in _other_models(config).items():
            check_other_model(section, model, config.model, tokenizer)
            check_same_tokenizer(section, model, tokenizer)
            check_examples_fit(model, examples, mismatched=mismatched)
        tell_unused_sections(config)
        passes = config.run.steps * config.batch.examples_per_step / len(rows)
        say(
            f"{config.run.steps} steps of {config.batch.examples_per_step} examples: {passes:.2f} passes over "
            f"{len(rows)}"
        )
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    for problems in held_out:
        check_context(config.model, problems.prompts, config.evaluation_sampling.max_response_tokens)
    tokens = chain(
        _token_ids(rows), _token_ids(mixed_in), *(_token_ids(problems.prompts) for problems in held_out)
    )
    samplings = (config.rollout.sampling, config.evaluation_sampling) if config.generates else ()
    check_vocabulary(config.model, tokenizer, set(tokens), samplings)
    judged = [row for row in rows if isinstance(row, Prompt)] or [
        p for each in held_out for p in each.prompts
    ]
    if judged:
        check_rewards(config.reward, judged[0])
    if held_out:
        tell_evaluation_parameters(config.reward)
    return RunData(rows, held_out, mixed_in)


def _other_models(config: TrainConfig) -> dict[str, ModelConfig]:
    """The checkpoints beside the policy's, by section."""
    return {section: model for section, model in models_of(config).items() if section != "model"}


def _token_ids(rows: Iterable[Prompt | Example]) -> Iterable[int]:
    for row in rows:
        if isinstance(row, Prompt):
            yield from row.token_ids
        else:
            for sample in row:
                yield from sample.prompt_ids.tolist()
                yield from sample.response_ids.tolist()


def _mixed_in(config: TrainConfig, data: RunData) -> ExampleStream | None:
    """The examples of algorithm.ptx in their order, if the recipe has them."""
    if not isinstance(config, OnlineConfig) or config.algorithm.ptx is None:
        return None
    shuffle = config.algorithm.ptx.data.shuffle
    return ExampleStream(data.mixed_in, OrderedSampler(len(data.mixed_in), config.run.seed, shuffle))


def build_source(
    config: TrainConfig, data: RunData, workers: Workers, rewards: RewardRunner | None, timer: PhaseTimer
) -> Source:
    """What the steps are made from."""
    sampler = OrderedSampler(len(data.rows), config.run.seed, config.data.shuffle)
    if isinstance(config, OnlineConfig):
        assert workers.pool is not None
        assert rewards is not None
        prompts = [row for row in data.rows if isinstance(row, Prompt)]
        return OnlineSource(config, prompts, sampler, workers.pool, rewards, timer)
    return ExampleSource(ExampleStream(data.examples, sampler), config.batch.examples_per_step)
