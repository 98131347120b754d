"""Whether a closed form of a sum, integral or limit is its value, by computing both to a dozen digits.

Computer algebra has mistakes of its own, as at poles within an interval; what is not confirmed here is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import mpmath

from reward_fns.answers.numeric import Undecided, value_at
from reward_fns.answers.series import PREFIX, replaced
from reward_fns.answers.values import Expression, Operation, Symbol, symbols_of, walk

DIGITS = 20
AGREEMENT = 1e-10  # of both values, relative; for limits see `_tends_to`
NOTHING = 1e-14  # what counts as zero
FAR = 20  # from here on an integrand that cannot be computed is nothing
MANY_DIGITS = 60  # for integrals without a closed form
SURE_DIGITS = 40  # of these, which two numbers that are the same must share
MAX_TERMS = 3_000  # that are added up one by one
# Values of what else is in the expression, in turn: whole numbers, usual and small ones. One that confirms is enough.
_PARAMETERS: tuple[tuple[Any, ...], ...] = (
    (7, 3, 5, 2),
    (1.3125, 0.71875, 2.59375, 3.34375),
    (0.21875, 0.15625, 0.34375),
)
_NEARER = (20, 40, 80)  # digits between a limit and the points where it is looked at
_FURTHER = (250, 1000, 4000, 16000)  # whole numbers on the way to infinity, where those are too far
_COARSE = 0.02  # how near to a limit the last point must be, relative, since some come as slowly as 1 / ln x

Function = Callable[[Any], Any]
_NO_VALUE = (Undecided, ArithmeticError, ValueError, TypeError, mpmath.libmp.NoConvergence)


def confirmed(found: Operation, value: Expression) -> bool:
    """Whether ``value`` is the value of the series ``found``, at one choice of the other variables."""
    _, index, *_ = found.arguments
    assert isinstance(index, Symbol)
    names = sorted((symbols_of(found) | symbols_of(value)) - {index.name})
    for numbers in _PARAMETERS if names else _PARAMETERS[:1]:
        point = {name: mpmath.mpf(numbers[n % len(numbers)]) + n // 4 for n, name in enumerate(names)}
        try:
            with mpmath.workdps(DIGITS):
                if _holds(found, value, point, index.name):
                    return True
        except _NO_VALUE:
            continue
    return False


def same_number(left: Expression, right: Expression) -> bool:
    """Whether two numbers with integrals in them are the same to many digits. Raises Undecided where that is not sure.

    For integrals of which no closed form is known. Other series cannot be computed to so many digits with certainty.
    """
    with mpmath.workdps(MANY_DIGITS):
        try:
            one, other = (_number(each) for each in (left, right))
        except _NO_VALUE as error:
            raise Undecided("an integral without a closed form, and without a value that is sure") from error
        apart, size = abs(one - other), max(abs(one), abs(other))
        if apart <= size * mpmath.mpf(10) ** -SURE_DIGITS:
            return True
        if apart > size * mpmath.mpf(10) ** (-SURE_DIGITS // 2):
            return False
    raise Undecided("two values that are too near to each other")


def _number(expression: Expression) -> Any:
    """The value of an expression without variables and with integrals in it. Raises what _NO_VALUE names."""
    point: dict[str, Any] = {}
    for node in list(walk(expression)):
        if isinstance(node, Operation) and node.name == f"{PREFIX}integral":
            body, index, low, high = node.arguments
            assert isinstance(index, Symbol)
            if symbols_of(body) - {index.name}:
                raise Undecided("an integral with a parameter")
            ends = [value_at(end, {}) for end in (low, high)]
            if any(map(mpmath.isinf, ends)):
                raise Undecided("an integral to infinity")
            found = _proper_integral(_function(body, index.name), ends[0], ends[1], SURE_DIGITS)
            name = Symbol(f"#value{len(point)}")
            point[name.name] = found
            expression = replaced(expression, node, name)
    return value_at(expression, point) if symbols_of(expression) <= point.keys() else _unknown()


def _unknown() -> Any:
    raise Undecided("a variable, or a series of another kind")


def _function(body: Expression, index: str) -> Function:
    return lambda x: value_at(body, {index: x})


def _proper_integral(at: Function, low: Any, high: Any, digits: int) -> Any:
    """An integral between two numbers with so many digits behind the point. Raises Undecided where they are unsure."""
    found, error = mpmath.quad(at, [low, high], error=True)
    if not mpmath.isfinite(found) or error > mpmath.mpf(10) ** -digits * max(1, abs(found)):
        raise Undecided("an integral whose value is uncertain")
    return found


def _holds(found: Operation, value: Expression, point: Mapping[str, Any], index: str) -> bool:
    kind = found.name.removeprefix(PREFIX)
    body, _, *bounds = found.arguments

    def at(x: Any) -> Any:
        return value_at(body, {**point, index: x})

    if kind == "derivative":
        return _near(mpmath.diff(at, value_at(bounds[0], point)), value_at(value, point))
    if kind.startswith("limit"):
        return _tends_to(at, body, value_at(bounds[0], point), kind, value, point)
    low, high = (value_at(bound, point) for bound in bounds)
    if kind == "integral":
        return _near(_integral(at, body, index, low, high, point), value_at(value, point))
    return _near(_series(at, kind, low, high), value_at(value, point))


def _near(one: Any, other: Any) -> bool:
    size = max(abs(one), abs(other))
    return bool(mpmath.isfinite(size)) and abs(one - other) <= max(NOTHING, AGREEMENT * size)


def _series(at: Function, kind: str, low: Any, high: Any) -> Any:
    if low != mpmath.nint(low):
        raise Undecided("a bound that is no whole number")
    if mpmath.isinf(high):
        return (mpmath.nsum if kind == "add" else mpmath.nprod)(at, [low, high])
    if high != mpmath.nint(high) or high < low or high - low > MAX_TERMS:
        raise Undecided("bounds that are no whole numbers, or far from each other")
    terms = [at(low + n) for n in range(int(high - low) + 1)]
    return mpmath.fsum(terms) if kind == "add" else mpmath.fprod(terms)


def _integral(
    at: Function, body: Expression, index: str, low: Any, high: Any, point: Mapping[str, Any]
) -> Any:
    """The integral; towards infinity with attention to sines and cosines, which do not settle there."""
    if (mpmath.isinf(low) or mpmath.isinf(high)) and (omega := _frequency(body, index, point)):
        return mpmath.quadosc(at, [low, high], omega=omega)
    if mpmath.isinf(low) or mpmath.isinf(high):
        middle = low + 1 if mpmath.isfinite(low) else high - 1 if mpmath.isfinite(high) else mpmath.mpf(0)
        return mpmath.quad(lambda x: _vanishing(at, x), [low, middle, high])
    return _proper_integral(at, low, high, 10)


def _vanishing(at: Function, x: Any) -> Any:
    """The integrand; nothing far out where it is too small, or too large, to be computed."""
    try:
        return at(x)
    except Undecided:
        if abs(x) < FAR:
            raise
        return mpmath.mpf(0)


def _frequency(body: Expression, index: str, point: Mapping[str, Any]) -> Any:
    """The least factor of the variable in a sine or cosine; None where there is none."""
    found = []
    for node in walk(body):
        if isinstance(node, Operation) and node.name in ("sin", "cos") and index in symbols_of(node):
            (inside,) = node.arguments
            zero, one, two = (value_at(inside, {**point, index: mpmath.mpf(n)}) for n in range(3))
            if not _near(two - one, one - zero):
                raise Undecided("a sine of something that is not linear")
            found.append(abs(one - zero))
    return min(found, default=None)


def _tends_to(
    at: Function, body: Expression, target: Any, kind: str, value: Expression, point: Mapping[str, Any]
) -> bool:
    signs = {"limit": (1, -1), "limit_above": (1,), "limit_below": (-1,)}[kind]
    if not mpmath.isinf(target):
        return all(_comes_near(at, value, point, _points_beside(target, sign)) for sign in signs)
    direction = mpmath.sign(target)
    try:
        return _comes_near(at, value, point, [(direction * mpmath.mpf(10) ** n, n) for n in _NEARER])
    except _NO_VALUE:
        return _comes_near(at, value, point, [(direction * mpmath.mpf(n), 10) for n in _FURTHER])


def _points_beside(target: Any, sign: int) -> list[tuple[Any, int]]:
    with mpmath.workdps(2 * _NEARER[-1]):
        return [(target + sign * mpmath.mpf(10) ** -n, n) for n in _NEARER]


def _comes_near(
    at: Function, value: Expression, point: Mapping[str, Any], places: list[tuple[Any, int]]
) -> bool:
    """Whether values come nearer from place to place. The digits are enough for what cancels to the fourth order."""
    apart = []
    for place, exponent in places:
        with mpmath.workdps(DIGITS + 5 * exponent):
            limit, found = value_at(value, point), at(place)
            if mpmath.isinf(limit):  # how small the inverse is, if it has the sign
                apart.append(1 / found if found * limit > 0 else mpmath.inf)
                apart[-1], limit = abs(apart[-1]), mpmath.mpf(0)
            else:
                apart.append(abs(found - limit))
    nearer = all(after < before or after == 0 for before, after in pairwise(apart))
    return nearer and bool(mpmath.isfinite(apart[-1])) and apart[-1] <= _COARSE * max(1, abs(limit))
