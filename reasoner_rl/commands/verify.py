"""`reasoner-rl verify`: what a verifier says of the responses in a file, and where another one says otherwise."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from pydantic import ValidationError

from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.errors import ConfigError, DataError, did_you_mean, require_package
from reasoner_rl.observability import rollout_table
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.observability.rollout_rows import record
from reasoner_rl.observability.summary import write_jsonl
from reasoner_rl.prompts.read import TRUTH_RULE, truth_text
from reasoner_rl.rewards.contract import opened_tag
from reasoner_rl.rewards.process import dry_run
from reasoner_rl.rewards.queueing import answer_of
from reasoner_rl.rewards.runner import RewardRunner, RewardTask
from reasoner_rl.types import Reward

DEFAULT_FN = "reward_fns:compute_score"
MATH_VERIFY = "math-verify"  # short for:
MATH_VERIFY_FN = "reward_fns.math_verify_rule:compute_score"
RESPONSE_KEYS = ("response", "solution")  # the first that a row has
TRUTH_KEYS = ("ground_truth", "answer")
VERDICTS = ("correct", "wrong", "unparsed", "undecided", "timeout", "crash", "unknown")
SHOWN = 20  # disagreements
LONGEST_CELL = 48  # characters


@dataclass(frozen=True, slots=True)
class Row:
    """One response of the file."""

    line: int  # or row of a parquet file; from 1
    content: Mapping[str, Any]
    task: RewardTask


@dataclass(frozen=True, slots=True)
class Scored:
    """What one verifier said of all rows."""

    fn: str
    rewards: list[Reward]
    seconds: float  # from the first answer to the last, without starting the processes

    def column(self) -> list[str]:
        """The figures that stand under its name; see `FIGURES`."""
        verdicts = [verdict(reward) for reward in self.rewards]
        each = [reward.seconds for reward in self.rewards]
        known = [reward.accuracy for reward in self.rewards if reward.accuracy is not None]
        accuracy = math.fsum(known) / len(self.rewards)
        return [
            f"{accuracy:.2%}" if len(known) == len(self.rewards) else "unknown",
            *(f"{verdicts.count(name):,}" for name in VERDICTS),
            f"{len(self.rewards) / max(self.seconds, 1e-9):,.0f}",
            *(f"{numpy.percentile(each, percent):.2g}" for percent in (50, 99)),
        ]


FIGURES = ("accuracy", *VERDICTS, "answers/s", "p50, s an answer", "p99, s an answer")


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it, for people."""

    rows: list[Row]
    scored: list[Scored]  # by the verifier, and by the other one if there is one

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: the figures of each verifier."""
        columns = [scored.column() for scored in self.scored]
        return ["", *(scored.fn for scored in self.scored)], [
            [name, *(column[index] for column in columns)] for index, name in enumerate(FIGURES)
        ]

    def disagreements(self) -> list[int]:
        """Which rows only one of the two verifiers finds correct, and the other does not; none without a second one."""
        if len(self.scored) < 2:
            return []
        pairs = zip(self.scored[0].rewards, self.scored[1].rewards, strict=True)
        verdicts = [{verdict(reward) for reward in pair} for pair in pairs]
        return [
            number
            for number, said in enumerate(verdicts)
            if len(said) == 2 and "correct" in said and "unknown" not in said
        ]

    def disagreement_table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: the first `SHOWN` disagreements, with what each verifier found."""
        cells = []
        for number in self.disagreements()[:SHOWN]:
            row = self.rows[number]
            said = [
                text
                for scored in self.scored
                for text in (verdict(scored.rewards[number]), _short(scored.rewards[number].extracted))
            ]
            cells.append([str(row.line), _short(row.task.data_source), _short(row.task.ground_truth), *said])
        names = [name for scored in self.scored for name in (scored.fn, "its answer")]
        return ["line", "data source", "ground truth", *names], cells


def verdict(reward: Reward) -> str:
    """One of `VERDICTS`. A function whose accuracy is between 0 and 1 finds an answer correct from 0.5 on.

    "unknown": the function returns a score without an accuracy.
    """
    if reward.status != "ok":
        return reward.status
    if reward.accuracy is None:
        return "unknown"
    return "correct" if reward.accuracy >= 0.5 else "wrong"


def verify(
    path: Path,
    fn: str = DEFAULT_FN,
    against: str | None = None,
    *,
    workers: int,
    timeout: float,
    limit: int | None = None,
    out: Path | None = None,
) -> Report:
    """Score the rows of a file with one or two verifiers, and write what they said to ``out``.

    Raises ConfigError for a verifier or a place that cannot be used, and DataError naming file, line and key.
    """
    if against == MATH_VERIFY:
        require_package("math_verify", "math-verify", "verifiers", f"--against {MATH_VERIFY}")
        against = MATH_VERIFY_FN
    chosen = [("--fn", fn)] + ([("--against", against)] if against is not None else [])
    configs = [_config(flag, name, workers, timeout) for flag, name in chosen]
    rows = list(itertools.islice(read_rows(path), limit))
    if not rows:
        raise DataError(f"{path}: the file holds no rows")
    if out is not None:
        _prepare(out)
    sample = answer_of(next((row for row in rows if row.task.response), rows[0]).task)
    for config in configs:
        dry_run(config, sample)
    report = Report(rows, [_score(config, [row.task for row in rows]) for config in configs])
    if out is not None:
        write_jsonl(out, _scored_rows(report))
    return report


def _config(flag: str, fn: str, workers: int, timeout: float) -> RewardConfig:
    try:
        function = RewardFunctionConfig(fn=fn, evaluation_parameters={})
    except ValidationError as error:
        raise ConfigError(f"{flag} {fn!r}: {_rule(error)}") from None
    # Answers that are alike are judged each, or the times would be of something else.
    try:
        return RewardConfig(functions=[function], workers=workers, timeout_seconds=timeout, deduplicate=False)
    except ValidationError as error:
        flags = {"workers": "--workers", "timeout_seconds": "--timeout"}
        first = error.errors()[0]
        raise ConfigError(f"{flags[str(first['loc'][0])]} {first['input']!r}: {_rule(error)}") from None


def _rule(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def _prepare(out: Path) -> None:
    """Find out before the work whether its result can be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")


def _score(config: RewardConfig, tasks: Sequence[RewardTask]) -> Scored:
    fn = config.functions[0].fn
    with RewardRunner(config, 1) as runner, progress_bar("auto", fn, len(tasks)) as advance:
        begun = time.monotonic()
        rewards = runner.score(tasks, advance)
        return Scored(fn, rewards, time.monotonic() - begun)


def _scored_rows(report: Report) -> Iterator[dict[str, Any]]:
    """Rows as they were, and under "verified" and "against" what was said of them."""
    for number, row in enumerate(report.rows):
        added = {}
        for key, scored in zip(("verified", "against"), report.scored, strict=False):
            reward = scored.rewards[number]
            added[key] = {
                "fn": scored.fn,
                "verdict": verdict(reward),
                "score": reward.score,
                "accuracy": reward.accuracy,
                "extracted": reward.extracted,
                "components": dict(reward.components),
                "seconds": reward.seconds,
            }
        yield {**row.content, **added}


def read_rows(path: Path) -> Iterator[Row]:
    """Read JSONL rows with `RESPONSE_KEYS` and `TRUTH_KEYS`, or the parquet record of a run.

    Empty lines are passed over. Of a record, ``content`` is what its JSONL says. Raises DataError naming the file,
    the line, the key, the value and the rule.
    """
    return _recorded_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)


def _recorded_rows(path: Path) -> Iterator[Row]:
    for number, content in enumerate(map(record, rollout_table.read_rows(path)), start=1):
        yield Row(number, content, _task(f"{path}, row {number}", content))


def _jsonl_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    content = _json(path, line, text)
                    yield Row(line, content, _task(f"{path}, line {line}", content))
    except OSError as error:
        others = [] if path.exists() else [other.name for other in path.parent.glob("*.jsonl")]
        near = did_you_mean(path.name, others)
        raise DataError(f"{path}: cannot be read: {error.strerror}.{near}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}") from error


def _json(path: Path, line: int, text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}, line {line}: must be an object with keys; it is {_short(content)}")
    return content


def _task(place: str, content: Mapping[str, Any]) -> RewardTask:
    response_key, response = _first(place, content, RESPONSE_KEYS)
    if not isinstance(response, str):
        raise _error(place, response_key, response, "must be text")
    truth_key, truth = _first(place, content, TRUTH_KEYS)
    text = truth_text(truth)
    if text is None:
        raise _error(place, truth_key, truth, TRUTH_RULE)
    source = content.get("data_source")
    if not isinstance(source, str | None):
        raise _error(place, "data_source", source, "must be text")
    extra_info = content.get("extra_info")
    if not isinstance(extra_info, dict | None):
        raise _error(place, "extra_info", extra_info, "must be an object")
    tokens, prompt = content.get("tokens"), content.get("prompt")  # of the record of a run
    return RewardTask(
        source or "",
        response,
        text,
        extra_info or {},
        response_tokens=tokens if isinstance(tokens, int) else 0,
        opened_tag=opened_tag(prompt) if isinstance(prompt, str) else "",
    )


def _first(place: str, content: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, Any]:
    for key in keys:
        if key in content:
            return key, content[key]
    near = next((text for key in content if (text := did_you_mean(key, keys))), "")
    found = ", ".join(content) or "none"
    raise DataError(f"{place}: no key {keys[0]!r} or {keys[1]!r}; found {found}.{near}")


def _error(place: str, key: str, value: object, rule: str) -> DataError:
    return DataError(f"{place}: {key} {rule}; it is {_short(repr(value))}")


def _short(value: object) -> str:
    """A value on one line, for a cell or a message."""
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."
