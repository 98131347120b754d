"""Sampling and scoring answers to a recipe's training problems, part by part, so that an interruption loses little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from reasoner_rl.commands.answer_parts import AnswersPart
from reasoner_rl.commands.hashes import checkpoint_hash
from reasoner_rl.commands.judge_answers import answer_judge
from reasoner_rl.commands.memory import run_phase
from reasoner_rl.commands.out_folder import OUT, naming_out
from reasoner_rl.commands.settings import settle
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.training_recipe import SamplingRecipe
from reasoner_rl.distributed.launch import launch_pool
from reasoner_rl.distributed.restarts import with_restarts
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.read import Problem, read_problems
from reasoner_rl.prompts.render import render_prompts
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.generate import generate_groups
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.folder import begin_run, output_folder
from reasoner_rl.trainer.loading import check_generation, check_rewards, tell_rules
from reasoner_rl.types import Prompt, ScoredGroup

PROMPTS_PER_PART = 128


def sampled_groups(
    recipe: SamplingRecipe, folder: Path, rows: Sequence[int] | None = None, key: str = OUT
) -> Iterator[tuple[Problem, ScoredGroup]]:
    """The recipe's training problems with rollout.responses_per_prompt scored answers each, in their order.

    rows: which of the rendered problems, and in which order; all of them if None. key: what the user names ``folder``
    by. What was sampled is in ``folder``/answers, with the scores of reward.functions; a second call with the same
    recipe samples what is missing. If the recipe has a reward model, it judges them afterwards, with the workers to
    itself, and ``folder``/judged holds its scores. Raises ConfigError if the folder holds answers by another recipe or
    scores of another reward model, DataError or ConfigError for mistakes in the recipe.
    """
    recipe = with_exported_models(recipe)
    config = EvalConfig.of_answers(recipe, folder)
    with output_folder(config.run, key), naming_out(folder, key):
        begin_run(config)
        tokenizer = load_tokenizer(config.model)
        problems, read = read_problems(recipe.data.train, "data.train")
        prompts, rendered = render_prompts(problems, tokenizer, config.data.prompts)
        say(f"{recipe.data.train.label}: {read}; {rendered}")
        if rows is not None:
            prompts = [prompts[row] for row in rows]
        check_generation(config, prompts, tokenizer)
        check_rewards(config.reward, prompts[0])
        tell_rules(config.reward, prompts)
        _settle(config, prompts, folder)
        judge = answer_judge(recipe, folder, tokenizer, prompts)
        starts = range(0, len(prompts), PROMPTS_PER_PART)
        parts = [
            AnswersPart(
                prompts[start : start + PROMPTS_PER_PART], folder / "answers" / f"part_{n:05d}.parquet"
            )
            for n, start in enumerate(starts)
        ]
        missing = [part for part in parts if not part.file.exists()]
        say(f"answers: {len(parts) - len(missing)} of {len(parts)} parts exist")
        if missing:
            run_phase("sampling answers", config, _sample, config, parts)
        if judge is not None:
            judge.judge(parts)
    by_uid = {problem.uid: problem for problem in problems}
    for part in parts:
        for group in part.groups() if judge is None else judge.with_scores(part):
            yield by_uid[group.prompt.uid], group


def _settle(config: EvalConfig, prompts: Sequence[Prompt], folder: Path) -> None:
    """Note what the answers depend on, or compare it with what the folder's answers were made by."""
    sections = ("model", "data", "rollout", "reward", "evaluation")
    tree = config.model_dump(mode="json")
    settings = {
        "run.seed": config.run.seed,
        "checkpoint": checkpoint_hash(config.model.path),  # a run's weights change at the same place
        **{name: tree[name] for name in sections},
        "prompts": fingerprint(prompts),
    }
    settle(folder, settings, "answers that were sampled")


def _sample(config: EvalConfig, parts: Sequence[AnswersPart]) -> None:
    """Sample and score the answers of the parts that are missing, and write their files."""
    begin_run(config)  # again, where this is a process of its own
    with_restarts(config.cluster, partial(_sample_missing, config, parts), say)


def _sample_missing(config: EvalConfig, parts: Sequence[AnswersPart], restarts: int) -> None:
    limit, samples = config.rollout.sampling.max_response_tokens, config.evaluation.samples_per_prompt
    missing, total = [part for part in parts if not part.file.exists()], len(parts)
    with RewardRunner(config.reward, limit) as rewards, launch_pool(config, say, restarts) as pool:
        for number, part in enumerate(missing, start=total - len(missing) + 1):
            groups = generate_groups(
                part.prompts,
                pool,
                rewards,
                config.rollout.sampling,
                samples,
                seed_parts=(config.run.seed, "answers"),
                timer=PhaseTimer(),
                progress=config.logging.progress,
            )
            part.file.parent.mkdir(exist_ok=True)
            write_rollouts(part.file, 0, groups)
            right = [r.accuracy for group in groups for r in group.rewards if r.accuracy is not None]
            share = f", {sum(right) / len(right):.1%} right" if right else ""
            say(f"  {number} of {total} parts: {len(groups) * samples:,} answers{share}")
