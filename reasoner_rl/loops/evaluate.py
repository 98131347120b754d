"""Accuracy on held-out problems, inside a training run or by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from reasoner_rl.config.data import DatasetConfig, PromptConfig
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.distributed.launch import launch_workers
from reasoner_rl.evaluation.estimators import EvaluationReport, ProblemResult, summarise
from reasoner_rl.loops.generate import generate_groups
from reasoner_rl.loops.start import (
    begin_run,
    check_context,
    check_rewards,
    check_vocabulary,
    load_prompts,
    output_folder,
    record_run,
    say,
    tell_evaluation_parameters,
)
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.summary import write_json
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import Generator
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.types import Prompt


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A named set of prompts."""

    name: str
    prompts: Sequence[Prompt]


def load_held_out(
    datasets: Sequence[DatasetConfig], prompts: PromptConfig, tokenizer: PreTrainedTokenizerBase
) -> list[HeldOut]:
    """Read and render evaluation datasets."""
    return [HeldOut(dataset.label, load_prompts(dataset, prompts, tokenizer)) for dataset in datasets]


class Evaluator:
    """Evaluates whatever generates; the same random numbers at every call, so that runs can be compared."""

    def __init__(
        self,
        config: EvalConfig | OnlineConfig,
        held_out: Sequence[HeldOut],
        rewards: RewardRunner,
        recorder: RolloutRecorder,
    ) -> None:
        self._config = config
        self._sampling = config.sampling if isinstance(config, EvalConfig) else config.evaluation_sampling
        self._held_out = held_out
        self._rewards = rewards.for_evaluation(self._sampling.max_response_tokens)
        self._recorder = recorder

    def evaluate(self, generator: Generator, step: int) -> list[EvaluationReport]:
        """One report a dataset; all responses are recorded."""
        config, reports = self._config, []
        for held_out in self._held_out:
            groups = generate_groups(
                held_out.prompts,
                generator,
                self._rewards,
                self._sampling,
                config.evaluation.samples_per_prompt,
                seed_parts=(config.run.seed, "evaluation", held_out.name),
                timer=PhaseTimer(),
                progress=config.logging.progress,
            )
            self._recorder.evaluation(step, held_out.name, groups)
            reports.append(summarise(held_out.name, [ProblemResult.from_group(group) for group in groups]))
        return reports


def evaluate_checkpoint(config: EvalConfig) -> list[EvaluationReport]:
    """`reasoner-rl eval`: load a checkpoint, evaluate it, write ``evaluation.json``."""
    with output_folder(config.run) as output:
        begin_run(config)
        record_run(config)
        return _evaluate(config, output)


def _evaluate(config: EvalConfig, output: Path) -> list[EvaluationReport]:
    tokenizer = load_tokenizer(config.model)
    limit = config.sampling.max_response_tokens
    held_out = load_held_out(config.evaluation.datasets, config.prompts, tokenizer)
    check_context(config.model, (prompt for dataset in held_out for prompt in dataset.prompts), limit)
    token_ids = (token for dataset in held_out for prompt in dataset.prompts for token in prompt.token_ids)
    check_vocabulary(config.model, tokenizer, token_ids, [config.sampling])
    tell_evaluation_parameters(config.reward)
    check_rewards(config.reward, held_out[0].prompts[0])
    say(f"weights: {config.model.path}")
    with RewardRunner(config.reward, limit) as rewards, launch_workers(config, say) as workers:
        evaluator = Evaluator(config, held_out, rewards, RolloutRecorder(output, config.logging.rollouts))
        reports = evaluator.evaluate(workers, step=0)
    path = output / "evaluation.json"
    write_json(
        path, {"model": config.model.path, "seed": config.run.seed, "reports": [r.to_json() for r in reports]}
    )
    say(f"report: {path}")
    return reports
