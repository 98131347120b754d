"""Sets of real numbers: intervals from inequalities and unions, in ascending order and without overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from reward_fns.answers.exact import exact_value
from reward_fns.answers.values import Expression, Interval, Number, Operation, Region

INFINITY = Operation("infinity")
MINUS_INFINITY = Operation("negate", (INFINITY,))
ZERO = Number(Fraction(0))
ALL = Interval(MINUS_INFINITY, INFINITY, False, False)

End = Fraction | float


@lru_cache(maxsize=1024)
def end_value(expression: Expression) -> End | None:
    """An end of an interval as a number that can be ordered; None if it is not real or has variables."""
    exact = exact_value(expression)
    from reward_fns.answers.numeric import real_value  # mpmath is loaded where it is needed

    return real_value(expression) if exact is None else exact


def interval(low: Expression, high: Expression, closed_low: bool, closed_high: bool) -> Interval:
    """An interval; infinity is never part of it."""
    return Interval(low, high, closed_low and not _is_infinite(low), closed_high and not _is_infinite(high))


def half_line(operator: str, bound: Expression) -> Region:
    """The numbers x with ``x operator bound``."""
    if operator == "!=":
        return Region(
            (interval(MINUS_INFINITY, bound, False, False), interval(bound, INFINITY, False, False))
        )
    if operator in ("<", "<="):
        return Region((interval(MINUS_INFINITY, bound, False, operator == "<="),))
    return Region((interval(bound, INFINITY, operator == ">=", False),))


def union(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """The union, in order and joined where intervals touch; as given where an end cannot be ordered."""
    ends = [(end_value(each.low), end_value(each.high)) for each in intervals]
    if any(low is None or high is None for low, high in ends):
        return tuple(intervals)
    keyed = sorted(zip(ends, intervals, strict=True), key=lambda pair: (pair[0][0], not pair[1].closed_low))
    found: list[tuple[End, Interval]] = []  # where each ends
    for (low, high), each in keyed:
        assert low is not None
        assert high is not None
        if low > high or (low == high and not (each.closed_low and each.closed_high)):
            continue  # empty
        if found and (
            low < found[-1][0] or (low == found[-1][0] and (each.closed_low or found[-1][1].closed_high))
        ):
            end, before = found[-1]
            if high > end:
                found[-1] = (high, Interval(before.low, each.high, before.closed_low, each.closed_high))
            elif high == end and each.closed_high:
                found[-1] = (end, Interval(before.low, before.high, before.closed_low, True))
        else:
            found.append((high, each))
    return tuple(each for _, each in found)


def intersection(left: Sequence[Interval], right: Sequence[Interval]) -> tuple[Interval, ...] | None:
    """The common part, or None where an end cannot be ordered."""
    found = []
    for a in left:
        for b in right:
            ends = [end_value(each) for each in (a.low, b.low, a.high, b.high)]
            if any(end is None for end in ends):
                return None
            a_low, b_low, a_high, b_high = (math.nan if end is None else end for end in ends)
            if a_low == b_low:
                low, closed_low = a.low, a.closed_low and b.closed_low
            else:
                low, closed_low = (a.low, a.closed_low) if a_low > b_low else (b.low, b.closed_low)
            if a_high == b_high:
                high, closed_high = a.high, a.closed_high and b.closed_high
            else:
                high, closed_high = (a.high, a.closed_high) if a_high < b_high else (b.high, b.closed_high)
            found.append(Interval(low, high, closed_low, closed_high))
    return union(found)


def complement(intervals: Sequence[Interval]) -> tuple[Interval, ...] | None:
    """All other real numbers, or None where an end cannot be ordered."""
    found: tuple[Interval, ...] | None = (ALL,)
    for each in intervals:
        outside = (
            interval(MINUS_INFINITY, each.low, False, not each.closed_low),
            interval(each.high, INFINITY, not each.closed_high, False),
        )
        found = None if found is None else intersection(found, outside)
    return found


def single_points(region: Region) -> list[Expression] | None:
    """The numbers of a finite region, or None if it is not finite."""
    points = []
    for each in region.intervals:
        low, high = end_value(each.low), end_value(each.high)
        if low is None or low != high:
            return None
        points.append(each.low)
    return points


def point(value: Expression) -> Interval:
    """The interval of one number."""
    return Interval(value, value, True, True)


def _is_infinite(expression: Expression) -> bool:
    return expression in (INFINITY, MINUS_INFINITY)
