"""`reasoner-rl eval run`: accuracy of a checkpoint on held-out problems, in one result file that pins everything.

Responses are drawn in parts, and each part is saved when it is finished, so that an interruption loses one part at
most. Seeds do not depend on the parts, so that interruptions do not change the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from reasoner_rl.commands.answer_parts import AnswersPart
from reasoner_rl.commands.evaluation_folder import EvaluationFolder
from reasoner_rl.commands.evaluation_settings import machine_of, now, settings_of
from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.config.rollout import VllmEngineConfig
from reasoner_rl.distributed.launch import launch_pool
from reasoner_rl.distributed.restarts import with_restarts
from reasoner_rl.errors import ConfigError
from reasoner_rl.evaluation.estimators import ProblemResult, summarise
from reasoner_rl.evaluation.result import EvaluationResult, ProblemRecord, SetReport
from reasoner_rl.evaluation.tables import identity, report_of_set
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.prompts.fingerprint import prompt_hash
from reasoner_rl.prompts.templates import TEMPLATES
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.export_checkpoint import final_weights, with_exported_models
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loading import (
    HeldOut,
    check_generation,
    check_rewards,
    load_held_out,
    show_first_prompt,
    tell_evaluation_parameters,
    tell_rules,
)
from reasoner_rl.types import Prompt, ScoredGroup


def evaluate_checkpoint(config: EvalConfig) -> EvaluationResult:
    """Evaluate a checkpoint, and write ``evaluation.json`` and the responses into run.output_dir.

    A second call resumes what was interrupted, or returns what is finished. Raises ConfigError, naming the settings
    that differ, if the folder holds another evaluation, and if it holds any with run.resume "never".
    """
    config = with_exported_models(config)
    with output_folder(config.run) as output:
        begin_run(config)
        tokenizer = load_tokenizer(config.model)
        held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
        show_first_prompt(config.data.prompts, held_out[0].prompts)
        check_generation(config, [prompt for dataset in held_out for prompt in dataset.prompts], tokenizer)
        check_rewards(config.reward, held_out[0].prompts[0])
        tell_rules(config.reward.for_evaluation(), (prompt for each in held_out for prompt in each.prompts))
        tell_evaluation_parameters(config.reward)
        _tell_of_sampling(config)
        folder = EvaluationFolder(output, settings_of(config, tokenizer, held_out), config.run.resume)
        say(f"weights: {config.model.path}")
        if (finished := folder.finished()) is not None:
            say(f"finished before: {folder.result}")
            return finished
        per_part = folder.begin(_problems_per_part(config))
        record_run(config)
        result = _evaluate(config, held_out, folder, per_part)
        folder.finish(result)
    say(f"result: {folder.result}")
    return result


def as_evaluation(config: AnyRecipe, *, model_chosen: bool) -> EvalConfig:
    """The evaluation that a recipe of any kind describes.

    For a training recipe, the weights are those in the run's final/, if there are any and no model is chosen.
    Raises ConfigError for a reward model's recipe, and where no problems are named.
    """
    if isinstance(config, RewardModelConfig):
        raise ConfigError(
            "`reasoner-rl eval` answers problems, and the recipe is of a reward model: to evaluate one on "
            "evaluation.datasets, `reasoner-rl train RECIPE run.steps=0 model.path=... run.output_dir=...`"
        )
    if isinstance(config, EvalConfig):
        return config
    run = config.run.output_dir
    final, checkpoints = run / "final", run / "checkpoints"
    made = final.is_dir() and not model_chosen
    model = str(final) if made else config.model.path
    if checkpoints.is_dir() and not model_chosen and final_weights(run) is None:
        why = (
            "may have been trained further since its final weights were written"
            if made
            else "has no final weights yet"
        )
        say(f"{run} {why}: {model} is evaluated; model.path={run} evaluates the newest checkpoint")
    return EvalConfig.of_training(config, model)


def _tell_of_sampling(config: EvalConfig) -> None:
    sampling, template = config.rollout.sampling, config.data.prompts.template
    if sampling.temperature == 0:
        say(
            "greedy decoding: one response per problem, always the same up to rounding; the interval is over problems "
            "alone, and says nothing of other samples"
        )
    stop = TEMPLATES[template].stop if template is not None else None
    if stop is not None and stop not in sampling.stop:
        say(
            f"template {template}: a response continues with further problems of its own unless a text ends it: "
            f'rollout.sampling.stop=["{stop}"]'
        )


def _problems_per_part(config: EvalConfig) -> int:
    """As many as fill all engines once, unless evaluation.responses_per_part is set."""
    evaluation, engine = config.evaluation, config.rollout.engine
    copies = config.cluster.ranks // (engine.tensor_parallel if isinstance(engine, VllmEngineConfig) else 1)
    responses = evaluation.responses_per_part or engine.max_batch_sequences * max(1, copies)
    return max(1, responses // evaluation.samples_per_prompt)


@dataclass(frozen=True, slots=True)
class _SetParts:
    """The parts of one set, in order."""

    held_out: HeldOut
    starts: tuple[int, ...]
    parts: tuple[AnswersPart, ...]

    @classmethod
    def of(cls, held_out: HeldOut, folder: Path, per_part: int) -> _SetParts:
        starts = tuple(range(0, len(held_out.prompts), per_part))
        place = folder / quote(held_out.name, safe=" ")
        return cls(
            held_out,
            starts,
            tuple(
                AnswersPart(list(held_out.prompts[start : start + per_part]), place / f"part_{n:05d}.parquet")
                for n, start in enumerate(starts)
            ),
        )

    def missing(self) -> Iterator[tuple[int, AnswersPart]]:
        """The parts that are not finished, each with the number of its first problem."""
        for start, part in zip(self.starts, self.parts, strict=True):
            if not part.file.exists():
                yield start, part

    def check_finished(self) -> None:
        """Read the parts that are finished, so that a damaged one is found before the others are made."""
        for part in self.parts:
            if part.file.exists():
                part.groups()

    def groups(self) -> list[ScoredGroup]:
        """The responses to the whole set."""
        return [group for part in self.parts for group in part.groups()]


def _evaluate(
    config: EvalConfig, held_out: Sequence[HeldOut], folder: EvaluationFolder, per_part: int
) -> EvaluationResult:
    sets = [_SetParts.of(of_set, folder.parts, per_part) for of_set in held_out]
    total, done = sum(len(s.parts) for s in sets), _finished(sets)
    if done:
        say(f"responses: {done} of {total} parts are finished")
        for of_set in sets:
            of_set.check_finished()
    limit = config.rollout.sampling.max_response_tokens
    with RewardRunner(config.reward, limit) as rewards:
        recorder = RolloutRecorder(
            config.run.output_dir, config.logging.rollouts, config.logging.rollout_format
        )
        evaluator = Evaluator(config, held_out, rewards, recorder)
        if done < total:
            with_restarts(config.cluster, partial(_answer_missing, config, evaluator, sets), say)
        reports = []
        for of_set in sets:
            groups = of_set.groups()
            evaluator.record(0, of_set.held_out, groups)
            reports.append(_report(of_set.held_out, evaluator.results(groups)))
    return EvaluationResult(
        made=now(),
        how="generated",
        source=None,
        settings=folder.settings,
        machine=machine_of(config),
        reports=reports,
    )


def _answer_missing(
    config: EvalConfig, evaluator: Evaluator, sets: Sequence[_SetParts], restarts: int
) -> None:
    """Draw and score the responses of the missing parts, and keep each part as it is finished."""
    total, done = sum(len(s.parts) for s in sets), _finished(sets)
    with launch_pool(config, say, restarts) as pool:
        for of_set in sets:
            for start, part in of_set.missing():
                groups = evaluator.answer(pool, of_set.held_out, start, start + len(part.prompts))
                write_rollouts(part.file, 0, groups)
                done += 1
                if total > 1:
                    say(f"  {done} of {total} parts: {of_set.held_out.name}, problem {start + len(groups):,}")


def _finished(sets: Sequence[_SetParts]) -> int:
    return sum(part.file.exists() for of_set in sets for part in of_set.parts)


def _report(held_out: HeldOut, results: Sequence[ProblemResult]) -> SetReport:
    identities = [_identity(prompt, held_out) for prompt in held_out.prompts]
    return report_of_set(summarise(held_out.name, results), results, identities)


def _identity(prompt: Prompt, held_out: HeldOut) -> ProblemRecord:
    return identity(prompt.uid, held_out.problem_hashes[prompt.uid], prompt.ground_truth, prompt_hash(prompt))
