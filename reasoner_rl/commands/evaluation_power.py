"""`reasoner-rl eval power`: how many problems and samples it takes to see a difference, from measured variances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.commands.evaluation_tables import Table
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.difference import samples_by_problem
from reasoner_rl.evaluation.power import (
    Variances,
    detectable,
    problems_needed,
    variances_of_one,
    variances_of_two,
)
from reasoner_rl.evaluation.result import SetReport, read_result
from reasoner_rl.observability.messages import say


@dataclass(frozen=True, slots=True)
class PowerOptions:
    """What is to be found out. Differences and probabilities are in [0, 1]."""

    difference: float
    samples: tuple[int, ...]  # per problem
    resemblance: float  # of the two models' accuracies over problems; not used where both are measured
    power: float  # probability of finding the difference

    def __post_init__(self) -> None:
        if not 0 < self.difference < 1:
            raise ConfigError(
                f"--difference {self.difference:g}: must be between 0 and 1, such as 0.02 for 2 points"
            )
        if not self.samples or min(self.samples) < 1:
            raise ConfigError("--samples: must be numbers of at least 1, such as 1,4,16")


def power_table(result: Path, other: Path | None, options: PowerOptions) -> Table:
    """For each set of a result and each number of samples: the problems needed, and what the set's problems can show.

    Raises DataError for a set with fewer than 2 problems or samples, whose accuracies are not known or not all 0 or 1,
    and where ``other`` does not have the same problems.
    """
    after = {} if other is None else {report.dataset: report for report in read_result(other).reports}
    rows = []
    for report in read_result(result).reports:
        variances = _variances(result, report, other, after.get(report.dataset), options.resemblance)
        if variances.spread == 0 and (other is not None or options.resemblance < 1):
            _tell_of_zeros(report.dataset, variances)
        for samples in options.samples:
            cells = [f"{variances.within:.4f}", f"{variances.spread:.4f}", str(samples)]
            cells += _needed_and_seen(variances, report.problems, samples, options)
            rows.append([report.dataset, str(report.problems), *cells])
    wanted = f"problems needed for {options.difference:g}"
    columns = ["dataset", "problems", "variance within", "spread of differences", "samples", wanted]
    return [*columns, "smallest difference that the set shows"], rows


def _tell_of_zeros(dataset: str, variances: Variances) -> None:
    """Say what a spread of 0 means, which is an estimate and no fact."""
    if variances.known:
        say(
            f"{dataset}: problems differ no more than chance between samples explains, so the spread is taken as 0; "
            "with many samples, more problems may be needed than the table says"
        )
    else:
        say(
            f"{dataset}: all samples have the same accuracy, so variances cannot be measured: take a result in which "
            "some are right and some are wrong"
        )


def _needed_and_seen(
    variances: Variances, problems: int, samples: int, options: PowerOptions
) -> tuple[str, str]:
    """The problems that are needed, and the smallest difference that ``problems`` show."""
    if not variances.known:
        return "unknown", "unknown"
    needed = problems_needed(options.difference, variances, samples, options.power)
    seen = detectable(variances, problems, samples, options.power)
    return "more than 10,000,000" if needed is None else f"{needed:,}", f"{seen:.3f}"


def _variances(
    place: Path, report: SetReport, other_place: Path | None, other: SetReport | None, resemblance: float
) -> Variances:
    if other_place is None:
        return variances_of_one(list(_samples(place, report).values()), resemblance)
    if other is None:
        raise DataError(f"{other_place}: has no set {report.dataset!r}")
    before, after = _samples(place, report), _samples(other_place, other)
    try:
        return variances_of_two(before, after)
    except ValueError as error:
        raise DataError(f"{report.dataset} of {place} and {other_place}: {error}") from error


def _samples(place: Path, report: SetReport) -> dict[str, list[float]]:
    """The accuracies of a set by problem. Raises DataError, naming the result, where no variance can be taken."""
    if report.problems < 2 or report.samples_per_problem < 2:
        raise DataError(
            f"{place}: {report.dataset}: variances need at least 2 problems and 2 samples of each; the result has "
            f"{report.problems} and {report.samples_per_problem}"
        )
    try:
        return samples_by_problem(report)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def parse_samples(text: str) -> tuple[int, ...]:
    """Read ``1,4,16``. Raises ConfigError naming the part that is no number."""
    parts: Sequence[str] = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal():
            raise ConfigError(f"--samples {text!r}: {part!r} must be a whole number")
    return tuple(map(int, parts))
