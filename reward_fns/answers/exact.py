"""The exact value of an expression, where it is a rational number that is cheap to compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from reward_fns.answers.values import Expression, Number, Operation

MAX_BITS = 60_000  # of a numerator or denominator
MAX_FACTORIAL = 3000


class _NotRational(ArithmeticError):
    pass


def exact_value(expression: Expression) -> Fraction | None:
    """Return the value as a fraction, or None where it is irrational, has variables, or would be too large."""
    try:
        return _value(expression)
    except (_NotRational, ZeroDivisionError, OverflowError, RecursionError):
        return None


def _value(expression: Expression) -> Fraction:
    if isinstance(expression, Number):
        return expression.value
    if not isinstance(expression, Operation):
        raise _NotRational
    operation = _OPERATIONS.get(expression.name)
    if operation is None:
        raise _NotRational
    found = operation(*(_value(argument) for argument in expression.arguments))
    if max(found.numerator.bit_length(), found.denominator.bit_length()) > MAX_BITS:
        raise _NotRational
    return found


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or size * abs(exponent.numerator) > MAX_BITS:
        raise _NotRational
    if base == 0 and exponent <= 0:
        raise _NotRational
    return base**exponent.numerator


def _root(radicand: Fraction, degree: Fraction) -> Fraction:
    """A root of a perfect power."""
    if degree != 2 or radicand < 0:
        raise _NotRational
    above, below = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
    if above**2 != radicand.numerator or below**2 != radicand.denominator:
        raise _NotRational
    return Fraction(above, below)


def _factorial(n: Fraction, step: int = 1) -> Fraction:
    if n.denominator != 1 or not 0 <= n <= MAX_FACTORIAL:
        raise _NotRational
    return Fraction(math.prod(range(n.numerator, 0, -step)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= MAX_FACTORIAL:
        raise _NotRational
    return Fraction(math.comb(n.numerator, k.numerator))


def _integers(function: Callable[..., int]) -> Callable[..., Fraction]:
    def of(*values: Fraction) -> Fraction:
        if any(value.denominator != 1 for value in values):
            raise _NotRational
        return Fraction(function(*(value.numerator for value in values)))

    return of


_OPERATIONS: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "negate": lambda a: -a,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": _power,
    "sqrt": lambda a: _root(a, Fraction(2)),
    "root": _root,
    "percent": lambda a: a / 100,
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "factorial": _factorial,
    "double_factorial": lambda a: _factorial(a, 2),
    "binomial": _binomial,
    "min": min,
    "max": max,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}
