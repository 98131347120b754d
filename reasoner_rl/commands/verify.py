"""`reasoner-rl verify`: a verifier's verdicts on existing responses, and where those of another one differ."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reasoner_rl.commands.generations import Columns, Generation, generation_files, read_generations
from reasoner_rl.commands.verify_report import Report, Scored
from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError, DataError, did_you_mean, require_package
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.summary import write_jsonl
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.queueing import answer_of
from reasoner_rl.rewards.runner import RewardRunner, RewardTask
from reward_fns.forms import rules_in_force

DEFAULT_FN = "reward_fns:compute_score"
MATH_VERIFY = "math-verify"  # short for:
MATH_VERIFY_FN = "reward_fns.math_verify_rule:compute_score"


def verify(
    paths: Sequence[Path],
    fn: str = DEFAULT_FN,
    against: str | None = None,
    *,
    workers: int,
    timeout: float,
    columns: str | None = None,
    limit: int | None = None,
    out: Path | None = None,
) -> Report:
    """Score the responses of files and run folders with one or two verifiers, and write the verdicts to ``out``.

    columns: see `Columns.parse`. limit: rows read of each file. Raises ConfigError for a verifier or a place that
    cannot be used, and DataError naming file, row and key.
    """
    chosen = [("--fn", fn)] + ([("--against", against)] if against is not None else [])
    configs = [
        # Answers that are alike are judged each, or the times would be of something else.
        one_function(flag, name, workers, timeout, evaluation_parameters={}, deduplicate=False)
        for flag, name in chosen
    ]
    names = Columns.parse(columns)
    files = generation_files(paths)
    if out is not None:
        _prepare(out, files)
    rows = _read(files, names, limit)
    tasks = [task for row in rows for task in row.tasks()]
    sample = answer_of(next((task for task in tasks if task.response), tasks[0]))
    for config in configs:
        dry_run(config, sample)
        for line in rules_in_force(config.functions[0].fn, {}, (row.data_source for row in rows)):
            say(line)
    report = Report(rows, [_score(config, tasks) for config in configs])
    if out is not None:
        write_jsonl(out, report.rows())
    return report


def _read(files: Sequence[Path], columns: Columns, limit: int | None) -> list[Generation]:
    """The rows of all files. Raises DataError for a file without any."""
    rows = []
    with progress_bar("auto", "reading", len(files)) as advance:
        for file in files:
            found = list(itertools.islice(read_generations(file, columns), limit))
            if not found:
                raise DataError(f"{file}: the file holds no rows")
            rows += found
            advance(1)
    return rows


def _resolved(flag: str, fn: str) -> str:
    """The function that a name on the command line stands for. Raises MissingExtraError if its package is not there."""
    if fn != MATH_VERIFY:
        return fn
    require_package("math_verify", "math-verify", "verifiers", f"{flag} {MATH_VERIFY}")
    return MATH_VERIFY_FN


def one_function(
    flag: str,
    fn: str,
    workers: int,
    timeout: float,
    *,
    evaluation_parameters: Mapping[str, Any] | None = None,
    deduplicate: bool = True,
) -> RewardConfig:
    """The rewards of one function, or of ``math-verify``.

    Raises ConfigError naming the flag, ``flag`` for the function, and the rule; MissingExtraError without math-verify.
    """
    fn = _resolved(flag, fn)
    own = {} if evaluation_parameters is None else {"evaluation_parameters": evaluation_parameters}
    try:
        function = RewardFunctionConfig(fn=fn, **own)
    except ValidationError as error:
        raise ConfigError(f"{flag} {fn!r}: {_rule(error)}.{did_you_mean(fn, [MATH_VERIFY])}") from None
    try:
        return RewardConfig(
            functions=[function], workers=workers, timeout_seconds=timeout, deduplicate=deduplicate
        )
    except ValidationError as error:
        flags = {"workers": "--workers", "timeout_seconds": "--timeout"}
        first = error.errors()[0]
        raise ConfigError(f"{flags[str(first['loc'][0])]} {first['input']!r}: {_rule(error)}") from None


def _rule(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def _prepare(out: Path, files: Sequence[Path]) -> None:
    """Find out before the work whether its result can be written, and that it replaces no file."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")
    if out.resolve() in {file.resolve() for file in files}:
        raise ConfigError(f"--out {out} is one of the files that are read; name another")
    if out.exists():
        raise ConfigError(f"--out {out}: exists already; name another file, or remove it")


def _score(config: RewardConfig, tasks: Sequence[RewardTask]) -> Scored:
    fn = config.functions[0].fn
    with RewardRunner(config, 1) as runner, progress_bar("auto", fn, len(tasks)) as advance:
        begun = time.monotonic()
        rewards = runner.score(tasks, advance)
        return Scored(fn, rewards, time.monotonic() - begun)
