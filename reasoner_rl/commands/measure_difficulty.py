"""`reasoner-rl data difficulty`: training problems with the pass rate that a model has on them, chosen and ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.commands.sample_answers import sampled_groups
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.pass_rates import Order, PassRate, chosen, histogram
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import atomic_path, write_json, write_jsonl
from reasoner_rl.prompts.read import Problem, rows_of_file
from reasoner_rl.types import ScoredGroup

REPORT = "difficulty_report.json"
_BAR = 50  # characters of the longest bar


@dataclass(frozen=True, slots=True)
class Choice:
    """Which problems are kept, and in which order."""

    min_pass: float = 0.0
    max_pass: float = 1.0
    order: Order = "none"

    def __post_init__(self) -> None:
        if not self.min_pass <= self.max_pass:
            raise ConfigError(
                f"--min-pass {self.min_pass:g}: must be at most --max-pass, which is {self.max_pass:g}"
            )


@dataclass(frozen=True, slots=True)
class DifficultyReport:
    """What was measured, and what was kept."""

    problems: int
    samples: int  # per problem
    pass_rate: float  # the mean
    none_right: int  # problems
    all_right: int
    kept: int
    choice: Choice
    histogram: dict[str, int]

    def __str__(self) -> str:
        outside = self.problems - self.kept
        between = f"{self.choice.min_pass:g} to {self.choice.max_pass:g}"
        dropped = f"; {outside:,} with a rate outside of {between} left out" if outside else ""
        order = ", the easiest first" if self.choice.order == "easy-first" else ""
        return (
            f"{self.problems:,} problems with {self.samples} answers each: mean pass rate {self.pass_rate:.1%}, "
            f"{self.none_right:,} with none right, {self.all_right:,} with all right; "
            f"{self.kept:,} kept{order}{dropped}"
        )


def measure_difficulty(config: OnlineConfig, folder: Path, choice: Choice) -> DifficultyReport:
    """Sample and verify rollout.responses_per_prompt answers to each training problem, and write the chosen problems.

    The file has the name and the columns of data.train.path, since the name may be the data source that a verifier goes
    by, and `PassRate.columns`; the report is beside it. Another choice with the same recipe and folder samples nothing
    again. Raises ConfigError for a recipe with a reward model, and if the file would replace data.train.path; DataError
    if the accuracy of an answer is not known, or if no problem is kept. Then neither file is written.
    """
    source = _source(config)
    file = folder / source.name
    if file.resolve() == source.resolve():
        raise ConfigError(
            f"--out={folder}: {file} is data.train.path and would be replaced; choose another folder"
        )
    if config.reward_model is not None:
        raise ConfigError(
            "reward_model is set, and data difficulty counts answers that are right, whatever their scores: leave the "
            "section out, or set reward_model=null"
        )
    measured = [(problem, _rate(problem, group)) for problem, group in sampled_groups(config, folder)]
    rates = [rate for _, rate in measured]
    places = chosen(rates, choice.min_pass, choice.max_pass, choice.order)
    report = _report(rates, len(places), choice)
    say(_bars(report.histogram))
    if not places:
        raise DataError(f"no problem has a pass rate of {choice.min_pass:g} to {choice.max_pass:g}: {report}")
    with naming_out(folder):
        _write(source, file, [measured[place] for place in places])
        write_json(folder / REPORT, asdict(report))
    say(str(report))
    say(f"in a recipe: {_keys(config, file, choice)}")
    return report


def _source(config: OnlineConfig) -> Path:
    paths = config.data.train.paths
    if len(paths) > 1:
        raise ConfigError(
            f"data.train.path names {len(paths)} files, and data difficulty measures one: call it for each of them"
        )
    return paths[0]


def _rate(problem: Problem, group: ScoredGroup) -> PassRate:
    rate = PassRate.of_group(group)
    if rate is None:
        raise DataError(
            f"problem {problem.uid}: a pass rate needs the accuracy of every answer, and reward.functions return no "
            "`acc` for some of them"
        )
    return rate


def _report(rates: Sequence[PassRate], kept: int, choice: Choice) -> DifficultyReport:
    return DifficultyReport(
        problems=len(rates),
        samples=rates[0].samples,
        pass_rate=sum(rate.rate for rate in rates) / len(rates),
        none_right=sum(rate.passed == 0 for rate in rates),
        all_right=sum(rate.passed == rate.samples for rate in rates),
        kept=kept,
        choice=choice,
        histogram=dict(histogram(rates)),
    )


def _bars(bins: dict[str, int]) -> str:
    """A line per bin, with a bar whose length is in proportion to the number of problems."""
    most = max(bins.values())
    label, number = max(map(len, bins)), len(f"{most:,}")
    lines = [
        f"  {name:>{label}}  {count:>{number},}  {'#' * -(-count * _BAR // most)}".rstrip()
        for name, count in bins.items()
    ]
    return "\n".join(["problems by answers that are right:", *lines])


def _write(source: Path, file: Path, kept: Sequence[tuple[Problem, PassRate]]) -> None:
    """The rows of ``source`` that the problems stand in, in this order, with the columns of their pass rates."""
    if source.suffix == ".parquet":
        table = pyarrow.parquet.read_table(source).take([problem.row - 1 for problem, _ in kept])
        columns = [rate.columns() for _, rate in kept]
        for name in columns[0]:
            values = pyarrow.array([row[name] for row in columns])
            table = _with_column(table, name, values)
        with atomic_path(file) as temporary:
            pyarrow.parquet.write_table(table, temporary)
        return
    wanted = {problem.row for problem, _ in kept}
    rows = {number: row for number, row in rows_of_file(source) if number in wanted}
    write_jsonl(file, ({**rows[problem.row], **rate.columns()} for problem, rate in kept))


def _with_column(table: pyarrow.Table, name: str, values: pyarrow.Array) -> pyarrow.Table:
    """The table with the column added, or in the place of one of an earlier measurement."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _keys(config: OnlineConfig, file: Path, choice: Choice) -> str:
    """What points the recipe to the file: rows are chosen already, and a curriculum must not be shuffled."""
    keys = [f"data.train.path={file}"]
    if config.data.train.start:
        keys.append("data.train.start=0")
    if config.data.train.limit is not None:
        keys.append("data.train.limit=null")
    if choice.order != "none":
        keys.append("data.shuffle=false")
    return " ".join(keys)
