"""Alarms where a number of a run leaves its course: pure functions of the rows of metrics.jsonl and the limits.

A number x of a step is compared with absolute limits and with the run's own past, the last ``window`` steps that have
the number: with their median m, and with s = 1.4826 x their median absolute deviation, which is the standard deviation
of a normal distribution. There is an alarm where

    shares:     x > m + max(by, deviations s)
    others:     x > max(m times, m exp(deviations s), m + by)
                x < min(m / times, m / exp(deviations s), m - by)       where falling hurts too

In the second case s is of logarithms, of numbers no smaller than ``by``, below which nothing counts.
These are the limits of a Shewhart chart with robust estimates. ``by`` keeps flat series quiet, ``times`` small changes,
and ``deviations`` those of a run that is changing fast anyway. Of one stretch of steps beyond a limit the first is an
alarm, and no other within ``window`` steps of one. Nothing is remembered but the rows, so that a resumed run and a
finished one give the same alarms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

from reasoner_rl.config.base import Section
from reasoner_rl.config.drift import DriftConfig, HostMemoryLimits

Row = Mapping[str, Any]  # of metrics.jsonl
Point = tuple[int, float]  # a step, and the number that it has
_TINY = 1e-30
_NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


@dataclass(frozen=True, slots=True)
class Evidence:
    """A response that shows what an alarm is about."""

    uid: str  # of its prompt
    sample: int  # its number in the group
    text: str  # what it shows, for people
    file: str | None = None  # of the record, from the run's folder; None: it is not recorded
    row: int | None = None  # in that file, from 0
    positions: tuple[int, ...] = ()  # of the response tokens that show it most, from 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """A number that has left its course."""

    step: int
    trend: str  # its key in the recipe's section drift
    metric: str
    value: float
    limit: float  # that it is beyond
    rule: str  # why that is the limit, in words
    since: (
        int  # step at which it began to leave; earlier checkpoints are healthy as far as this number can tell
    )
    rising: bool = True  # whether it is above the limit, and not below
    evidence: tuple[Evidence, ...] = ()

    def __str__(self) -> str:
        return f"{self.trend}: {self.metric} is {self.value:.3g}, {self.rule}"


@dataclass(frozen=True, slots=True)
class Trend:
    """Something that is watched.

    number: of a row and the number of responses per prompt; None where the step has none.
    """

    name: str
    metric: str
    number: Callable[[Row, int], float | None]
    falling_hurts: bool = False


@dataclass(frozen=True, slots=True)
class _Broken:
    limit: float
    rule: str
    centre: float | None = None  # of the past that the limit was made from


def _metric(name: str) -> Callable[[Row, int], float | None]:
    return lambda row, _: row.get(name)


def _share(metrics: Sequence[str]) -> Callable[[Row, int], float | None]:
    """Of the generated responses."""

    def number(row: Row, responses_per_prompt: int) -> float | None:
        counts = [row[name] for name in metrics if name in row]
        responses = row.get("groups/generated", 0) * responses_per_prompt
        return sum(counts) / responses if counts and responses else None

    return number


def _dead_groups(row: Row, _: int) -> float | None:
    """Runs of earlier versions have counted what the filter dropped, and no dead groups."""
    generated, equal = row.get("groups/generated", 0), row.get("groups/equal_share")
    if "groups/dead_share" in row or equal is None or not generated:
        return row.get("groups/dead_share")
    return max(0.0, float(equal) - row.get("groups/dropped_right", 0) / generated)


TRENDS = (
    Trend("gap", "policy/rollout_gap_mean", _metric("policy/rollout_gap_mean")),
    Trend("sync_gap", "sync/check_gap", _metric("sync/check_gap")),
    Trend("entropy", "policy/entropy", _metric("policy/entropy"), falling_hurts=True),
    Trend("length", "response/length_mean", _metric("response/length_mean"), falling_hurts=True),
    Trend("truncation", "response/truncated_share", _metric("response/truncated_share")),
    Trend("dead_groups", "groups/dead_share", _dead_groups),
    Trend(
        "failures",
        "reward/timeouts and reward/crashes per response",
        _share(("reward/timeouts", "reward/crashes")),
    ),
    Trend("unparsed", "reward/unparsed per response", _share(("reward/unparsed",))),
    Trend("host_memory", "memory/host_used_share", _metric("memory/host_used_share")),
)


def is_of_a_step(row: Row) -> bool:
    """Whether a row of metrics.jsonl is of a training step that generates, and not of an evaluation."""
    return "groups/generated" in row


def alarms_of_last(rows: Sequence[Row], config: DriftConfig, responses_per_prompt: int) -> list[Alarm]:
    """The alarms of the last of ``rows``, which are of training steps, in order; `needed_rows` of them are enough."""
    found = (_alarm(trend, rows, config, responses_per_prompt) for trend in TRENDS)
    return [alarm for alarm in found if alarm is not None]


def replay(rows: Sequence[Row], config: DriftConfig, responses_per_prompt: int) -> list[Alarm]:
    """All alarms of a run, from the rows of its metrics.jsonl."""
    steps, needed = [row for row in rows if is_of_a_step(row)], needed_rows(config)
    return [
        alarm
        for end in range(1, len(steps) + 1)
        for alarm in alarms_of_last(steps[max(0, end - needed) : end], config, responses_per_prompt)
    ]


def needed_rows(config: DriftConfig) -> int:
    """How many rows decide on the alarms of the last of them: a window before each step of the window before it."""
    return 2 * config.window + 1


def _alarm(trend: Trend, rows: Sequence[Row], config: DriftConfig, responses_per_prompt: int) -> Alarm | None:
    limits: Section | None = getattr(config, trend.name)
    numbers = [(row["step"], trend.number(row, responses_per_prompt)) for row in rows]
    if limits is None or not numbers or numbers[-1][1] is None:
        return None
    points = [(step, number) for step, number in numbers if number is not None][-needed_rows(config) :]
    end = len(points) - 1
    broken = _broken(trend, limits, points, end, config)
    if broken is None:
        return None
    if any(_broken(trend, limits, points, i, config) for i in range(max(0, end - config.window), end)):
        return None  # of a stretch that was told
    step, value = points[end]
    since, rising = _onset(points, broken), value >= broken.limit
    return Alarm(step, trend.name, trend.metric, value, broken.limit, broken.rule, since, rising)


def _broken(
    trend: Trend, limits: Section, points: Sequence[Point], at: int, config: DriftConfig
) -> _Broken | None:
    """The limit that the number at a place is beyond, if there is one."""
    value, past = points[at][1], [number for _, number in points[max(0, at - config.window) : at]]
    key = f"drift.{trend.name}"
    above, below = getattr(limits, "above", None), getattr(limits, "below", None)
    if above is not None and value > above:
        return _Broken(above, f"above {above:g} ({key}.above)")
    if below is not None and value < below:
        return _Broken(below, f"below {below:g} ({key}.below)")
    if isinstance(limits, HostMemoryLimits):
        return _full_soon(limits, [*past, value], config)
    by = getattr(limits, "by", None)
    if by is None or len(past) < config.after:
        return None
    centre = median(past)
    lower, upper = _control_limits(past, centre, by, getattr(limits, "times", None), config.deviations)
    past_is = f"the median of the {len(past)} steps before is {centre:.3g}"
    if value > upper:
        return _Broken(upper, f"above {upper:.3g}: {past_is} ({key})", centre)
    if trend.falling_hurts and value < lower:
        return _Broken(lower, f"below {lower:.3g}: {past_is} ({key})", centre)
    return None


def _control_limits(
    past: Sequence[float], centre: float, by: float, times: float | None, deviations: float
) -> tuple[float, float]:
    """The lower and the upper limit of the next number. times: None of a share."""
    if times is None:
        most = max(by, deviations * _NORMAL * median(abs(number - centre) for number in past))
        return centre - most, centre + most
    least = max(by, _TINY)
    distances = (abs(math.log(max(number, least) / max(centre, least))) for number in past)
    factor = max(times, math.exp(deviations * _NORMAL * median(distances)))
    return min(centre / factor, centre - by), max(centre * factor, centre + by)


def _full_soon(limits: HostMemoryLimits, shares: Sequence[float], config: DriftConfig) -> _Broken | None:
    """Whether memory would be full within the steps of the limit, at the slope of Theil and Sen over a whole window."""
    if limits.full_in_steps is None or len(shares) <= config.window:
        return None
    slope = median((y - x) / (j - i) for (i, x), (j, y) in combinations(enumerate(shares), 2))
    left = 1 - shares[-1]
    if slope * limits.full_in_steps <= left:
        return None
    limit = 1 - slope * limits.full_in_steps
    grows = f"it grows by {slope:.2g} per step, and would be full in {left / slope:.0f} steps"
    return _Broken(limit, f"{grows} (drift.host_memory.full_in_steps={limits.full_in_steps})")


def _onset(points: Sequence[Point], broken: _Broken) -> int:
    """The first of the steps up to the last one that are all beyond the middle between the past and its limit."""
    first = len(points) - 1
    if broken.centre is None:
        return points[first][0]
    middle = (broken.centre + broken.limit) / 2
    rising = broken.limit > broken.centre
    while first > 0 and (points[first - 1][1] > middle if rising else points[first - 1][1] < middle):
        first -= 1
    return points[first][0]


@dataclass(slots=True)
class Watched:
    """The rows of a run's latest steps, as many as decide on its alarms."""

    config: DriftConfig
    responses_per_prompt: int
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> list[Alarm]:
        """Take the row of the next step, and return its alarms."""
        self.rows = [*self.rows, row][-needed_rows(self.config) :]
        return alarms_of_last(self.rows, self.config, self.responses_per_prompt)
