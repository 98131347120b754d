"""`reasoner-rl eval rescore` and `eval score`: responses that exist, scored again or for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from reasoner_rl.commands.evaluation_folder import write_result
from reasoner_rl.commands.evaluation_settings import (
    machine_of,
    now,
    package_versions,
    verifier_record,
    verifier_versions,
)
from reasoner_rl.commands.foreign_responses import read_responses
from reasoner_rl.commands.generations import Columns
from reasoner_rl.commands.hashes import file_hash
from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.commands.verify import one_function
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.estimators import summarise
from reasoner_rl.evaluation.result import (
    RESULT_FILE,
    DataRecord,
    EvaluationResult,
    ProblemRecord,
    SetReport,
    Settings,
    read_result,
    result_path,
)
from reasoner_rl.evaluation.tables import identity, report_of_set
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts
from reasoner_rl.prompts.templates import text_hash
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.queueing import answer_of
from reasoner_rl.rewards.runner import RewardRunner, RewardTask
from reasoner_rl.sources.generate import reward_task, score_groups
from reasoner_rl.trainer.evaluate import results_of_groups
from reasoner_rl.trainer.folder import exclusive_folder
from reasoner_rl.trainer.loading import tell_rules
from reasoner_rl.types import ScoredGroup


def rescore_result(place: Path, fn: str, out: Path, *, workers: int, timeout: float) -> EvaluationResult:
    """Score the responses of a result with another verifier, and write the result into ``out``.

    Raises DataError if the responses were not kept in parquet, ConfigError if ``out`` holds a result already.
    """
    old, path = read_result(place), result_path(place)
    config = one_function("--fn", fn, workers, timeout)
    sets = {report.dataset: saved_responses(path.parent, report) for report in old.reports}
    settings = old.settings.model_copy(
        update={
            "verifier": verifier_record(config),
            "versions": {**old.settings.versions, **verifier_versions()},
        }
    )
    identities = {report.dataset: report.table for report in old.reports}
    known = {report.dataset: report.truncated_share is not None for report in old.reports}
    return _score("rescored", settings, sets, identities, config, out, source=path, lengths_known=known)


def score_files(
    files: Sequence[Path], fn: str, out: Path, *, workers: int, timeout: float, columns: str | None = None
) -> EvaluationResult:
    """Score responses that were generated elsewhere, a set per file, and write the result into ``out``.

    columns: see `Columns.parse`. Raises DataError naming file, row and key, ConfigError if ``out`` holds a result
    already.
    """
    names = Columns.parse(columns)
    config = one_function("--fn", fn, workers, timeout)
    labels = _labels(files)
    sets = {label: read_responses(file, label, names) for label, file in labels.items()}
    counts = {
        label: len(of_file.groups[0].rollouts) for label, of_file in sets.items()
    }  # of all its problems
    samples, *others = set(counts.values())
    if others:
        found = ", ".join(f"{labels[label]} {count}" for label, count in counts.items())
        raise DataError(
            f"the files must have the same number of responses per problem: {found}; score them one by one"
        )
    settings = Settings(
        model=None,
        tokenizer=None,
        prompts=None,
        sampling=None,
        samples_per_problem=samples,
        seed=None,
        engine=None,
        verifier=verifier_record(config),
        versions=package_versions(),
        data={
            label: DataRecord(
                path=str(file),
                sha256=file_hash(file),
                rows={"columns": names.given()} if columns else {},
                prompts_sha256=None,
                first_prompt=None,
            )
            for label, file in labels.items()
        },
    )
    identities = {
        label: [
            identity(group.prompt.uid, text_hash(group.prompt.text), group.prompt.ground_truth)
            for group in of_file.groups
        ]
        for label, of_file in sets.items()
    }
    groups = {label: of_file.groups for label, of_file in sets.items()}
    known = {label: of_file.lengths_known for label, of_file in sets.items()}
    return _score("scored", settings, groups, identities, config, out, source=None, lengths_known=known)


def _labels(files: Sequence[Path]) -> dict[str, Path]:
    """Files by the names of their sets, which are their stems. Raises ConfigError if two have the same."""
    labels = {file.stem: file for file in files}
    if len(labels) < len(files):
        raise ConfigError(
            f"the files must have different names, which are those of the sets: {[*map(str, files)]}"
        )
    return labels


def _score(
    how: Literal["rescored", "scored"],
    settings: Settings,
    sets: dict[str, list[ScoredGroup]],
    identities: dict[str, list[ProblemRecord]],
    config: RewardConfig,
    out: Path,
    *,
    source: Path | None,
    lengths_known: Mapping[str, bool],
) -> EvaluationResult:
    with exclusive_folder(out, "--out"), naming_out(out):
        if (out / RESULT_FILE).exists() or (out / "recipe.yaml").exists():
            raise ConfigError(f"--out {out}: holds a result or a run already; choose another folder")
        dry_run(config, answer_of(_first_task(sets)))
        tell_rules(config.for_evaluation(), (group.prompt for groups in sets.values() for group in groups))
        recorder, reports = RolloutRecorder(out, "all"), []
        with RewardRunner(config, 1) as runner:
            rewards = runner.for_evaluation(1)
            for name, groups in sets.items():
                prompts, rollouts = [g.prompt for g in groups], [g.rollouts for g in groups]
                scored = score_groups(prompts, rollouts, rewards, timer=PhaseTimer(), progress="auto")
                recorder.evaluation(0, name, scored)
                results = results_of_groups(scored, rewards)
                report = summarise(name, results)
                known = lengths_known[name]
                reports.append(report_of_set(report, results, identities[name], lengths_known=known))
        result = EvaluationResult(
            made=now(),
            how=how,
            source={"path": str(source), "sha256": file_hash(source)} if source else None,
            settings=settings,
            machine=machine_of(),
            reports=reports,
        )
        write_result(out / RESULT_FILE, result)
    say(f"result: {out / RESULT_FILE}")
    return result


def _first_task(sets: Mapping[str, Sequence[ScoredGroup]]) -> RewardTask:
    group = next(iter(sets.values()))[0]
    return reward_task(group.prompt, group.rollouts[0])


def saved_responses(folder: Path, report: SetReport) -> list[ScoredGroup]:
    """The saved responses of one set. Raises DataError if they are not there, or not those of the report."""
    path = folder / "evaluations" / f"step_000000_{quote(report.dataset, safe=' ')}.parquet"
    if not path.exists():
        raise DataError(
            f"{path}: the responses to {report.dataset} are not there in parquet; logging.rollouts other than none, "
            "and logging.rollout_format parquet or both, keep them"
        )
    groups = groups_of(read_rollouts(path))
    if [group.prompt.uid for group in groups] != [row.uid for row in report.table]:
        raise DataError(
            f"{path}: does not hold the responses of the {report.problems} problems of the report"
        )
    return groups
