"""Training on examples that exist already. The offline loop enters the data flow at batching.

examples -> plan -> update
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.config.recipes import SftConfig
from reasoner_rl.distributed.worker import build_backend
from reasoner_rl.loops.finish import draw_curves, export_folder
from reasoner_rl.loops.resume import (
    TRAINING_DATA,
    check_data,
    check_records,
    checkpoint_to_resume,
    expect_checkpoints,
    save_recipe,
)
from reasoner_rl.loops.start import (
    begin_run,
    check_vocabulary,
    graceful_stop,
    load_examples,
    output_folder,
    record_run,
    say,
)
from reasoner_rl.loops.state import DriverState, is_due
from reasoner_rl.losses.supervised import supervised_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.observability.measurements import PhaseTimer, memory_metrics
from reasoner_rl.observability.sinks import MetricLogger, open_logger
from reasoner_rl.observability.summary import write_json
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.sampler import PromptSampler
from reasoner_rl.tokenizer import load_tokenizer, unused_ids
from reasoner_rl.training.backend import TrainBackend
from reasoner_rl.training.checkpoint import CheckpointStore, reading
from reasoner_rl.types import TrainSample


@dataclass(frozen=True, slots=True)
class SupervisedRun:
    """The parts of a supervised run, wired together by `fine_tune`."""

    config: SftConfig
    backend: TrainBackend
    samples: list[TrainSample]
    sampler: PromptSampler
    logger: MetricLogger
    store: CheckpointStore
    state: DriverState

    def step(self) -> None:
        """One optimizer update on the next examples."""
        config, timer = self.config, PhaseTimer()
        chosen = [self.samples[index] for index in self.sampler.take(config.examples_per_step)]
        with timer("update"):
            mini_batch = plan_mini_batch(chosen, config.micro_batch_tokens, config.data.max_response_tokens)
            trained = self.backend.update(mini_batch, supervised_loss)
        self.state.step += 1
        tokens = {"update": sum(sample.tokens for sample in chosen)}
        self.logger.write(self.state.step, values(merge([trained, timer.metrics(tokens), memory_metrics()])))

    def save(self) -> None:
        """Write a checkpoint."""
        self.state.sampler = self.sampler.state()

        def write(folder: Path) -> None:
            self.backend.save(folder)
            self.state.save(folder)
            save_recipe(self.config, folder)

        self.store.save(self.state.step, write)

    def run(self) -> bool:
        """Step until the end or a request to stop. Returns whether the end was reached."""
        steps = self.config.run.steps
        with graceful_stop() as stop:
            while self.state.step < steps and not stop:
                started = time.perf_counter()
                self.step()
                self.state.seconds += time.perf_counter() - started
                if (
                    stop
                    or self.state.step == steps
                    or is_due(self.state.step, self.config.checkpoint.every_steps)
                ):
                    self.save()
        return self.state.step >= steps


def fine_tune(config: SftConfig) -> dict[str, Any] | None:
    """`reasoner-rl sft`: run the recipe to its end, resuming from its newest checkpoint if there is one.

    Returns the summary, also written to ``summary.json``, or None if the run was stopped before its end.
    """
    with output_folder(config.run) as output:
        store = CheckpointStore(output / "checkpoints", config.checkpoint.keep_last)
        newest = checkpoint_to_resume(config, store)
        begin_run(config)
        return _fine_tune(config, output, store, newest)


def _fine_tune(
    config: SftConfig, output: Path, store: CheckpointStore, newest: tuple[int, Path] | None
) -> dict[str, Any] | None:
    tokenizer = load_tokenizer(config.model)
    samples = load_examples(config.data, tokenizer)
    token_ids = torch.cat([ids for sample in samples for ids in (sample.prompt_ids, sample.response_ids)])
    check_vocabulary(config.model, tokenizer, token_ids.unique().tolist())
    epochs = config.run.steps * config.examples_per_step / len(samples)
    say(
        f"{config.run.steps} steps of {config.examples_per_step} examples: {epochs:.2f} passes over {len(samples)}"
    )
    sampler = PromptSampler(len(samples), config.run.seed, config.data.shuffle)
    state = DriverState()
    if newest:
        with reading(newest[1]):
            state = DriverState.load(newest[1])
        check_records(output, state.step, "none")
    check_data(state, {TRAINING_DATA: fingerprint(samples)}, newest)
    expect_checkpoints(config, store, state.step)
    record_run(config)
    backend = build_backend(
        config.model,
        config.training,
        total_updates=config.run.steps,
        unused_ids=unused_ids(config.model, tokenizer),
    )
    if newest:
        with reading(newest[1]):
            sampler.restore(state.sampler)
            backend.load(newest[1])
    resume_step = newest[0] if newest else None
    with open_logger(config.logging, output, total_steps=config.run.steps, resume_step=resume_step) as logger:
        finished = SupervisedRun(config, backend, samples, sampler, logger, store, state).run()
    if not finished:
        say(f"stopped after step {state.step}; the same command resumes from there")
        return None

    def write(folder: Path) -> None:
        backend.export_hf(folder)
        tokenizer.save_pretrained(folder)

    if config.checkpoint.export_at_end:
        export_folder(output / "final", write)
        say(f"weights: {output / 'final'}")
    summary = {
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "seed": config.run.seed,
        "examples": len(samples),
    }
    write_json(output / "summary.json", summary)
    draw_curves(output)
    return summary
