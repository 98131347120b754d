"""`reasoner-rl eval`: accuracy of a checkpoint on held-out problems."""

from __future__ import annotations

from pathlib import Path

from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.distributed.launch import launch_pool
from reasoner_rl.evaluation.estimators import EvaluationReport
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.summary import write_json
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loading import (
    check_generation,
    check_rewards,
    load_held_out,
    tell_evaluation_parameters,
    tell_rules,
)


def evaluate_checkpoint(config: EvalConfig) -> list[EvaluationReport]:
    """`reasoner-rl eval`: load a checkpoint, evaluate it, write ``evaluation.json``."""
    config = with_exported_models(config)
    with output_folder(config.run) as output:
        begin_run(config)
        record_run(config)
        return _evaluate(config, output)


def _evaluate(config: EvalConfig, output: Path) -> list[EvaluationReport]:
    tokenizer = load_tokenizer(config.model)
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    check_generation(config, [prompt for dataset in held_out for prompt in dataset.prompts], tokenizer)
    check_rewards(config.reward, held_out[0].prompts[0])
    tell_rules(config.reward.for_evaluation(), (prompt for dataset in held_out for prompt in dataset.prompts))
    tell_evaluation_parameters(config.reward)
    say(f"weights: {config.model.path}")
    limit = config.rollout.sampling.max_response_tokens
    with RewardRunner(config.reward, limit) as rewards, launch_pool(config, say) as pool:
        recorder = RolloutRecorder(output, config.logging.rollouts, config.logging.rollout_format)
        evaluator = Evaluator(config, held_out, rewards, recorder)
        reports = evaluator.evaluate(pool, step=0)
    path = output / "evaluation.json"
    write_json(
        path, {"model": config.model.path, "seed": config.run.seed, "reports": [r.to_json() for r in reports]}
    )
    say(f"report: {path}")
    return reports
