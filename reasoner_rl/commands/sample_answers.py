"""Sampling and scoring answers to a recipe's training problems, part by part, so that an interruption loses little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from reasoner_rl.commands.out_folder import OUT, naming_out
from reasoner_rl.commands.settings import settle
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, TrainingRecipe
from reasoner_rl.distributed.launch import launch_pool
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, write_rollouts
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.read import Problem, read_problems
from reasoner_rl.prompts.render import render_prompts
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.generate import generate_groups
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.folder import begin_run, output_folder
from reasoner_rl.trainer.loading import check_generation, check_rewards
from reasoner_rl.types import Prompt, ScoredGroup

PROMPTS_PER_PART = 128


def sampled_groups(
    recipe: TrainingRecipe, folder: Path, rows: Sequence[int] | None = None, key: str = OUT
) -> Iterator[tuple[Problem, ScoredGroup]]:
    """The recipe's training problems with rollout.responses_per_prompt scored answers each, in their order.

    rows: which of the rendered problems, and in which order; all of them if None. key: what the user names ``folder``
    by. What was sampled is in ``folder``/answers; a second call with the same recipe samples what is missing. Raises
    ConfigError if the folder holds answers by another recipe, DataError or ConfigError for mistakes in the recipe.
    """
    if isinstance(recipe, OnlineConfig) and recipe.reward_model is not None:
        raise ConfigError(
            "reward_model is set, and answers that are sampled to make data are scored by reward.functions alone: "
            "leave reward_model out"
        )
    config = EvalConfig.of_answers(recipe, folder)
    with output_folder(config.run, key), naming_out(folder, key):
        begin_run(config)
        tokenizer = load_tokenizer(config.model)
        problems, read = read_problems(recipe.data.train)
        prompts, rendered = render_prompts(problems, tokenizer, config.data.prompts)
        say(f"{recipe.data.train.label}: {read}; {rendered}")
        if rows is not None:
            prompts = [prompts[row] for row in rows]
        check_generation(config, prompts, tokenizer)
        check_rewards(config.reward, prompts[0])
        _settle(config, prompts, folder)
        starts = range(0, len(prompts), PROMPTS_PER_PART)
        parts = [prompts[start : start + PROMPTS_PER_PART] for start in starts]
        files = [folder / "answers" / f"part_{number:05d}.parquet" for number in range(len(parts))]
        _sample(config, list(zip(parts, files, strict=True)))
    by_uid = {problem.uid: problem for problem in problems}
    for part, file in zip(parts, files, strict=True):
        for group in _groups(file, part):
            yield by_uid[group.prompt.uid], group


def _groups(file: Path, prompts: Sequence[Prompt]) -> list[ScoredGroup]:
    """The answers in a part's file. Raises DataError if it cannot be read, or has not all of the part's prompts."""
    remedy = f"Delete {file}, and the same command samples its answers again"
    try:
        groups = groups_of(read_rollouts(file))
    except DataError as error:
        raise DataError(f"{error} {remedy}") from error
    if [group.prompt.uid for group in groups] != [prompt.uid for prompt in prompts]:
        raise DataError(
            f"{file}: does not hold the answers to the {len(prompts)} prompts of its part. {remedy}"
        )
    return groups


def _settle(config: EvalConfig, prompts: Sequence[Prompt], folder: Path) -> None:
    """Note what the answers depend on, or compare it with what the folder's answers were made by."""
    sections = ("model", "data", "rollout", "reward", "evaluation")
    tree = config.model_dump(mode="json")
    settings = {
        "run.seed": config.run.seed,
        **{name: tree[name] for name in sections},
        "prompts": fingerprint(prompts),
    }
    settle(folder, settings, "answers that were sampled")


def _sample(config: EvalConfig, parts: list[tuple[list[Prompt], Path]]) -> None:
    """Sample the parts whose file does not exist."""
    missing = [(prompts, file) for prompts, file in parts if not file.exists()]
    say(f"answers: {len(parts) - len(missing)} of {len(parts)} parts exist")
    if not missing:
        return
    limit, samples = config.rollout.sampling.max_response_tokens, config.evaluation.samples_per_prompt
    with RewardRunner(config.reward, limit) as rewards, launch_pool(config, say) as pool:
        for number, (prompts, file) in enumerate(missing, start=1):
            groups = generate_groups(
                prompts,
                pool,
                rewards,
                config.rollout.sampling,
                samples,
                seed_parts=(config.run.seed, "answers"),
                timer=PhaseTimer(),
                progress=config.logging.progress,
            )
            file.parent.mkdir(exist_ok=True)
            write_rollouts(file, 0, groups)
            right = [r.accuracy for group in groups for r in group.rewards if r.accuracy is not None]
            share = f", {sum(right) / len(right):.1%} right" if right else ""
            say(f"  part {number} of {len(missing)}: {len(groups) * samples:,} answers{share}")
