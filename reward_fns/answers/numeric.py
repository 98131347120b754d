"""Whether two expressions are the same function, by their values to many digits at several points.

Two different expressions of the size of an answer do not agree to forty digits by chance; and the precision is raised
beyond the digits that were written, so a long decimal does not pass for an irrational number. Everything that could
take long is refused by its magnitude before it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath

from reward_fns.answers.exact import exact_value
from reward_fns.answers.values import Expression, Number, Operation, Symbol, size_of, symbols_of, walk

DIGITS = 50
MAX_WORK = 60_000  # digits times the size of both expressions; about half a second at the worst
MAX_BITS = 1_000_000  # of the binary exponent of any value
MAX_ARGUMENT_BITS = 4_000  # of what is reduced modulo pi, or rounded
MAX_FACTORIAL = 20_000
MAX_ZETA = 50
MAX_GAMMA = 200

# Without a relation to each other. Whole numbers are for n!, binomials and (-1)^n.
_SIZES = ("1.3219280948", "0.7390851332", "2.6180339887", "3.3598856662")
_WHOLE = (7, 12, 5, 9)
_WHOLE_NAMES = frozenset("nmkNjpq")  # what is rounded of these is a count
# Signs of the variables at each point, in turn: all positive, all negative, and mixed.
_SIGNS = ((1,), (1,), (-1,), (1, -1), (-1, 1), (1, 1, -1))
POINTS = len(_SIGNS)
# Functions of several pieces are looked at further out as well.
_PIECEWISE = ("floor", "ceil", "abs", "min", "max", "sgn", "gcd", "lcm")
_WIDE = (13.7, -47.3, 1009.1, -100003.7, 25.2, -8.4)
_WIDE_WHOLE = (60, 97, 840, 66, 25, 1001)
WIDE_POINTS = len(_WIDE)


class Undecided(ArithmeticError):
    """A value is too large, undefined, or not to be had in bounded time."""


def same_function(left: Expression, right: Expression) -> bool:
    """Whether both have the same values wherever either is defined. Raises Undecided where no value can be had."""
    points = _Points(left, right)
    return all(points.agree(shift) for shift in points.defined())


def constant_ratio(left: Expression, right: Expression) -> int:
    """1 or -1, the sign of left / right, if that is a real number other than 0 and the same everywhere; else 0.

    Raises Undecided where no value can be had.
    """
    points = _Points(left, right)
    ratios = []
    with mpmath.workdps(points.digits):
        for shift in points.defined():
            a, b, *_ = points.values(shift, points.digits)
            if a == 0 or b == 0:
                return 0
            ratios.append(a / b)
        first, close = ratios[0], abs(ratios[0]) * _power_of_ten(-points.digits // 2)
        if abs(mpmath.im(first)) > close or any(abs(ratio - first) > close for ratio in ratios):
            return 0
    return 1 if mpmath.re(first) > 0 else -1


def real_value(expression: Expression) -> float | None:
    """The value of a real expression without variables, infinity included; None for any other."""
    if symbols_of(expression):
        return None
    try:
        with mpmath.workdps(DIGITS):
            value = _Evaluator({}).value(expression)
    except (Undecided, ArithmeticError, ValueError, TypeError):
        return None
    return float(value) if isinstance(value, mpmath.mpf) and not mpmath.isnan(value) else None


def value_at(expression: Expression, point: Mapping[str, Any]) -> Any:
    """The value to the digits that mpmath works with. Raises Undecided, ZeroDivisionError or ValueError without one."""
    return _Evaluator(point).value(expression)


class _Values(NamedTuple):
    """Of two expressions at a point; None where one is undefined there."""

    left: Any
    right: Any
    real: bool  # whether nothing on the way was complex
    reach: int  # digits between 1 and the largest or smallest number on the way


class _Points:
    """Two expressions at several points."""

    def __init__(self, left: Expression, right: Expression) -> None:
        self._pair = (left, right)
        self._names = sorted(symbols_of(left) | symbols_of(right))
        self._whole = _wants_whole_numbers(left) or _wants_whole_numbers(right)
        self._pieces = any(_has(expression, _PIECEWISE) for expression in self._pair)
        self.digits = DIGITS + max(_digits(left), _digits(right))

    def values(self, shift: int, digits: int) -> _Values:
        """Both values at a point."""
        with mpmath.workdps(digits):
            evaluator = _Evaluator(_point(self._names, shift, self._whole))
            left, right = (evaluator.value_or_none(expression) for expression in self._pair)
        return _Values(left, right, evaluator.real, evaluator.reach)

    def defined(self) -> list[int]:
        """The points to compare at. Raises Undecided where only one side has a value, or where there are too few.

        Where both are real on the whole way if there are such points: 2 ln x is ln x^2 for all x that 2 ln x is made
        for. Not so if one of them says |x|, and means more. `digits` grow until the smallest part of a value is seen
        beside the largest: 10^{300} + 1 is not 10^{300}.
        """
        found, real, reach = [], [], 0
        for shift in range(POINTS if self._names else 1):
            values = self.values(shift, self.digits)
            if values.left is None and values.right is None:
                continue
            if values.left is None or values.right is None:
                raise Undecided("defined on one side only")
            found.append(shift)
            reach = max(reach, values.reach)
            if values.real:
                real.append(shift)
        enough = 2 if self._names else 1
        if len(real) >= enough and _absolutes(self._pair[0]) == _absolutes(self._pair[1]):
            found = real
        if len(found) < enough:
            raise Undecided("undefined almost everywhere")
        self.digits += 2 * reach
        if self.digits * sum(map(size_of, self._pair)) > MAX_WORK:
            raise Undecided("too many digits")
        return found + self._further_out()

    def _further_out(self) -> list[int]:
        """Points far away where functions of several pieces show others, if both have values of a usual size there."""
        found = []
        for shift in range(POINTS, POINTS + WIDE_POINTS) if self._names and self._pieces else ():
            with suppress(Undecided):
                values = self.values(shift, self.digits)
                if values.real and None not in values[:2] and values.reach < self.digits // 2:
                    found.append(shift)
        return found

    def agree(self, shift: int) -> bool:
        """Whether both values are the same: what differs by rounding only comes closer with more digits."""
        before: Any = None
        for digits in (self.digits, 2 * self.digits, 4 * self.digits):
            a, b, *_ = self.values(shift, digits)
            if a == b:
                return True
            if not (mpmath.isfinite(a) and mpmath.isfinite(b)):
                return False
            with mpmath.workdps(digits):
                apart, size, coarse = abs(a - b), max(abs(a), abs(b)), _power_of_ten(-self.digits // 8)
                if size > coarse and apart > coarse * size:
                    return False
                if before is not None and apart <= size * _power_of_ten(-self.digits * 3 // 2):
                    return True
                # Zero under a root comes closer too, but slowly.
                if before is not None and apart > before * coarse:
                    return False
            before = apart
        return True


def _power_of_ten(exponent: int) -> Any:
    return mpmath.mpf(10) ** exponent


def _digits(expression: Expression) -> int:
    """Digits of the longest number that was written."""
    numbers = [node.value for node in walk(expression) if isinstance(node, Number)]
    bits = [max(abs(value.numerator), value.denominator).bit_length() for value in numbers]
    return math.ceil(max(bits, default=0) * 0.302)


def _point(names: list[str], shift: int, whole: bool) -> dict[str, Any]:
    if shift >= POINTS:
        wide = shift - POINTS
        if whole:
            return {name: mpmath.mpf(_WIDE_WHOLE[wide] * (n + 1)) for n, name in enumerate(names)}
        return {name: mpmath.mpf(_WIDE[(wide + n) % WIDE_POINTS]) + n for n, name in enumerate(names)}
    if whole:
        return {name: mpmath.mpf(_WHOLE[(n + shift) % 4] + n + shift // 4) for n, name in enumerate(names)}
    signs = _SIGNS[shift]
    return {
        name: signs[n % len(signs)]
        * mpmath.mpf(_SIZES[(n + shift) % 4])
        * (1 + mpmath.mpf(n // 4 + shift * (n + 1)) / 7)
        for n, name in enumerate(names)
    }


def _has(expression: Expression, names: tuple[str, ...]) -> bool:
    """Whether one of these functions of a variable is in it."""
    return any(
        isinstance(node, Operation) and node.name in names and bool(symbols_of(node))
        for node in walk(expression)
    )


def _absolutes(expression: Expression) -> int:
    """How many absolute values of variables it has."""
    return sum(
        isinstance(node, Operation) and node.name == "abs" and bool(symbols_of(node))
        for node in walk(expression)
    )


def _wants_whole_numbers(expression: Expression) -> bool:
    for node in walk(expression):
        if isinstance(node, Operation) and symbols_of(node):
            if node.name in ("factorial", "double_factorial", "binomial", "gcd", "lcm"):
                return True
            if node.name == "power" and exact_value(node.arguments[0]) == -1:
                return True
            if node.name in ("floor", "ceil") and symbols_of(node) <= _WHOLE_NAMES:
                return True
    return False


class _Evaluator:
    def __init__(self, point: Mapping[str, Any]) -> None:
        self._point = point
        self.reach = 0  # decimal digits between 1 and the largest or smallest value so far
        self.real = True  # whether all values so far are

    def value_or_none(self, expression: Expression) -> Any:
        """The value, or None where the expression is undefined."""
        try:
            value = self.value(expression)
        except (ZeroDivisionError, ValueError):
            return None
        except (TypeError, OverflowError, mpmath.libmp.NoConvergence) as error:
            raise Undecided(str(error)) from error
        return None if mpmath.isnan(value) else value

    def value(self, expression: Expression) -> Any:
        """The value. Raises ZeroDivisionError or ValueError where there is none, Undecided where it is too large."""
        return self._bounded(self._value(expression))

    def _value(self, expression: Expression) -> Any:
        if isinstance(expression, Number):
            return mpmath.mpf(expression.value.numerator) / expression.value.denominator
        if isinstance(expression, Symbol):
            return self._point[expression.name]
        if expression.name == "power":
            base, exponent = expression.arguments
            return _power(self.value(base), self.value(exponent), exact_value(exponent))
        if expression.name == "root":
            radicand, degree = expression.arguments
            n = exact_value(degree)
            return _power(self.value(radicand), 1 / self.value(degree), 1 / n if n else None)
        function = _FUNCTIONS.get(expression.name)
        if function is None:
            raise Undecided(expression.name)
        arguments = [self.value(argument) for argument in expression.arguments]
        if expression.name != "negate" and any(map(mpmath.isinf, arguments)):
            raise Undecided("infinity is no number")
        if expression.name in ("tanh", "coth"):  # so near to 1 that it takes these digits to see
            self.reach = max(self.reach, int(min(abs(arguments[0]), MAX_BITS) * 0.87))
        return function(*arguments)

    def _bounded(self, value: Any) -> Any:
        self.real &= not isinstance(value, mpmath.mpc) or value.imag == 0
        if mpmath.isfinite(value) and value != 0:
            bits = abs(mpmath.mag(value))
            if bits > MAX_BITS:
                raise Undecided("a value of too large a magnitude")
            self.reach = max(self.reach, math.ceil(bits * 0.302))
        return value


def _small(value: Any) -> Any:
    if not mpmath.isfinite(value) or (value != 0 and mpmath.mag(value) > MAX_ARGUMENT_BITS):
        raise Undecided("too large an argument")
    return value


def _power(base: Any, exponent: Any, rational: Fraction | None) -> Any:
    if mpmath.isinf(base) or mpmath.isinf(exponent):
        raise Undecided("a power of infinity")
    if base == 0:
        if mpmath.re(exponent) > 0:
            return mpmath.mpf(0)
        raise ZeroDivisionError
    if abs(mpmath.re(exponent * mpmath.log(base))) > MAX_BITS * 0.69:
        raise Undecided("a power of too large a magnitude")
    odd_root = rational is not None and rational.denominator % 2 == 1 and rational.denominator > 1
    if odd_root and mpmath.im(base) == 0 and mpmath.re(base) < 0:  # the real root, as schools have it
        assert rational is not None
        size = mpmath.power(-mpmath.re(base), exponent)
        return -size if rational.numerator % 2 else size
    return mpmath.power(base, exponent)


def _exp(x: Any) -> Any:
    if abs(mpmath.re(x)) > MAX_BITS * 0.69:
        raise Undecided("too large an exponent")
    return mpmath.exp(x)


def _of_exponential(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def of(x: Any) -> Any:
        _exp(x)
        return function(x)

    return of


def _factorial(x: Any) -> Any:
    _affordable(x)
    if abs(x) > MAX_FACTORIAL:
        raise Undecided("a factorial of too large a magnitude")
    return mpmath.factorial(x)


def _zeta(x: Any) -> Any:
    if abs(x) > MAX_ZETA or mpmath.mp.dps > 8 * DIGITS:
        raise Undecided("too large an argument of zeta")
    return mpmath.zeta(x)


def _affordable(*values: Any) -> None:
    """Raise Undecided for the gamma function of a number that is not whole, where it is large or digits are many."""
    for x in values:
        if x != mpmath.nint(mpmath.re(x)) and (abs(x) > MAX_GAMMA or mpmath.mp.dps > 8 * DIGITS):
            raise Undecided("a gamma function that would take long")


def _double_factorial(x: Any) -> Any:
    _affordable(x)
    if abs(x) > MAX_FACTORIAL:
        raise Undecided("a factorial of too large a magnitude")
    return mpmath.fac2(x)


def _binomial(n: Any, k: Any) -> Any:
    _affordable(n, k)
    if max(abs(n), abs(k)) > MAX_FACTORIAL:
        raise Undecided("a binomial of too large a magnitude")
    return mpmath.binomial(n, k)


def _log(x: Any) -> Any:
    if x == 0:
        raise ZeroDivisionError
    return mpmath.log(x)


def _real(x: Any) -> Any:
    if mpmath.im(x) != 0:
        raise Undecided("an order of complex numbers")
    return mpmath.re(x)


def _whole(function: Callable[..., int]) -> Callable[..., Any]:
    def of(*values: Any) -> Any:
        if any(_real(_small(value)) != mpmath.nint(value) for value in values):
            raise Undecided("no whole number")
        return mpmath.mpf(function(*(int(_real(value)) for value in values)))

    return of


def _of_small(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(_small(x))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "pi": lambda: +mpmath.pi,
    "e": lambda: +mpmath.e,
    "imaginary": lambda: mpmath.mpc(0, 1),
    "infinity": lambda: mpmath.inf,
    "add": lambda a, b: a + b,
    "negate": lambda a: -a,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "percent": lambda a: a / 100,
    "degrees": lambda a: a * mpmath.pi / 180,
    "sqrt": mpmath.sqrt,
    "cbrt": lambda a: _power(a, mpmath.mpf(1) / 3, Fraction(1, 3)),
    "abs": abs,
    "floor": _of_small(lambda a: mpmath.floor(_real(a))),
    "ceil": _of_small(lambda a: mpmath.ceil(_real(a))),
    "conjugate": mpmath.conj,
    "re": mpmath.re,
    "im": mpmath.im,
    "arg": mpmath.arg,
    "sgn": mpmath.sign,
    "factorial": _factorial,
    "double_factorial": _double_factorial,
    "binomial": _binomial,
    "min": lambda *v: min(map(_real, v)),
    "max": lambda *v: max(map(_real, v)),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
    "Gamma": lambda x: _factorial(x - 1),
    "zeta": _zeta,
    "exp": _exp,
    "cis": lambda x: _exp(mpmath.mpc(0, 1) * x),
    "ln": _log,
    "log": _log,
    "lg": lambda a: _log(a) / mpmath.log(10),
    **{name: _of_small(getattr(mpmath, name)) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _of_exponential(getattr(mpmath, name)) for name in ("sinh", "cosh", "tanh", "coth")},
    **{f"arc{name}": getattr(mpmath, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"arc{name}": getattr(mpmath, f"a{name}") for name in ("sinh", "cosh", "tanh", "coth")},
}
