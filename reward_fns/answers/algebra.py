"""The last rung of the comparison: what sums, integrals, limits and derivatives come to, by sympy.

Expressions become objects of sympy node by node, and sympy's result becomes an expression again in the same way; no
text is parsed and nothing is evaluated as code. The result is compared with the other answer like any expression, to
many digits, and not by sympy. It is used only where `quadrature` confirms it by numbers.

sympy is imported when the first such answer comes, since that takes half a second and most answers need none of it.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from types import FrameType
from typing import Any, TypeVar

from reward_fns.answers.exact import exact_value
from reward_fns.answers.numeric import Undecided
from reward_fns.answers.series import PREFIX, has_series, is_series, replaced
from reward_fns.answers.values import Expression, Number, Operation, Symbol, size_of, symbols_of, walk

MAX_SIZE = 120  # parts of an expression that sympy is given
MAX_RESULT = 400  # parts of what it returns
MAX_BITS = 2_000  # of a number, and of a power that sympy would write out
MAX_ARGUMENT = 500  # of a factorial or a similar function, which sympy would write out
AGAIN = 0.05  # seconds after which the deadline's signal is repeated, in case an exception handler swallowed the first

# A variable; not f, g or h, which may be functions, nor a name with an argument, a prime or an index such as in a_k.
_VARIABLE = re.compile(r"#[0-9]+|(?![fghFGH])(?:[A-Za-z]|[A-Za-z]{2,7})(?:_[0-9]+)?")
_SIDES = {"limit": "+-", "limit_above": "+", "limit_below": "-"}
_WRITTEN_OUT = ("factorial", "double_factorial", "binomial", "Gamma", "zeta")
_SAME_NAME = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp", "re", "im", "arg"),
    *("zeta", "factorial", "binomial", "conjugate", "gcd", "lcm"),
)
_OTHER_NAME = {
    **{
        f"arc{name}": f"a{name}"
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
    },
    **{
        "ln": "log",
        "log": "log",
        "abs": "Abs",
        "sgn": "sign",
        "ceil": "ceiling",
        "floor": "floor",
        "sqrt": "sqrt",
    },
    **{
        "double_factorial": "factorial2",
        "Gamma": "gamma",
        "min": "Min",
        "max": "Max",
        "cbrt": "cbrt",
        "root": "root",
    },
}
_TO_SYMPY = {**{name: name for name in _SAME_NAME}, **_OTHER_NAME}
# Where two names mean one function the first is what comes back.
_FROM_SYMPY = {theirs: ours for ours, theirs in reversed(_TO_SYMPY.items())}
_CONSTANTS = {"pi": "pi", "e": "E", "imaginary": "I", "infinity": "oo"}

T = TypeVar("T")


class _Late(BaseException):
    """The deadline has passed. Not an Exception: sympy catches those in places."""


def computed(expression: Expression, seconds: float) -> Expression:
    """The expression with the values of all series in it. Raises Undecided saying why there is none.

    seconds: the deadline, in CPU time, so that a busy machine changes no verdict. It is kept by a signal, so this
    decides nothing outside of a process's main thread.
    """
    if not has_series(expression):
        return expression
    _check(expression)
    found = _once(expression, seconds)
    if isinstance(found, str):
        raise Undecided(found)
    return found


def same_number(left: Expression, right: Expression, seconds: float) -> bool:
    """`quadrature.same_number` with a deadline: for integrals without parameters, and without sympy."""
    from reward_fns.answers import quadrature

    _check(left, right)
    series = [node for each in (left, right) for node in walk(each) if is_series(node)]
    if all(node.name == f"{PREFIX}integral" for node in series if isinstance(node, Operation)):
        return _within(seconds, lambda: quadrature.same_number(left, right))
    raise Undecided("something else than integrals")


def _check(*expressions: Expression) -> None:
    """Raise Undecided where nothing is computed: of what is too large, or where no deadline can be kept."""
    if max(map(size_of, expressions)) > MAX_SIZE:
        raise Undecided("too large an expression for computer algebra")
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise Undecided("computer algebra has a deadline, which only a process's main thread can keep")


@lru_cache(maxsize=1024)
def _once(expression: Expression, seconds: float) -> Expression | str:
    """The same, or why there is none; a ground truth comes again with each response of its group."""
    try:
        _sympy()  # outside of the deadline: an import that is interrupted leaves half a package behind
        return _within(seconds, lambda: _without_series(expression))
    except Undecided as reason:
        return str(reason)


def _sympy() -> Any:
    try:
        import sympy
    except ImportError:
        raise Undecided(
            "this needs the package 'sympy', which is not installed: pip install 'reasoner_rl[algebra]'"
        ) from None
    return sympy


def _within(seconds: float, compute: Callable[[], T]) -> T:
    """What ``compute`` returns. Raises Undecided after so many seconds. Another's timer is set again afterwards."""
    running = True

    def late(number: int, frame: FrameType | None) -> None:
        if running:
            raise _Late

    if seconds <= 0:
        raise Undecided("no time is left for computer algebra")
    begun = time.process_time()
    handler = signal.signal(signal.SIGVTALRM, late)
    remaining, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN)
    try:
        try:
            return compute()
        finally:
            running = False
    except _Late:
        raise Undecided(f"computer algebra took longer than {seconds:g} s of CPU time") from None
    finally:
        running = False
        left = max(remaining - (time.process_time() - begun), 1e-3) if remaining else 0.0
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, left, interval)


def _without_series(expression: Expression) -> Expression:
    """The same with each series replaced by its value, the inner ones first."""
    if not isinstance(expression, Operation):
        return expression
    found = Operation(expression.name, tuple(map(_without_series, expression.arguments)))
    return _value(found) if is_series(found) else found


def _value(found: Operation) -> Expression:
    from reward_fns.answers.quadrature import confirmed

    if not all(map(_VARIABLE.fullmatch, symbols_of(found))):
        raise Undecided("a function that is not known")
    try:
        value = _Translator(found).value()
    except (ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
        if isinstance(error, Undecided):
            raise
        raise Undecided(f"sympy ended with {type(error).__name__}") from error
    if not confirmed(found, value):
        raise Undecided("sympy found a value that its numbers do not confirm")
    return value


class _Translator:
    """One series as an object of sympy, and its value as an expression."""

    def __init__(self, found: Operation) -> None:
        self._sympy = _sympy()
        self._kind = found.name.removeprefix(PREFIX)
        self._body, self._index, *self._bounds = found.arguments
        self._symbols = {name: self._symbol(name) for name in symbols_of(found)}
        self._names = {symbol: name for name, symbol in self._symbols.items()}

    def _symbol(self, name: str) -> Any:
        """A real number; a whole one where it counts."""
        if self._kind not in ("add", "multiply"):
            return self._sympy.Symbol(name, real=True)
        if name == getattr(self._index, "name", ""):
            first = exact_value(self._bounds[0])
            return self._sympy.Symbol(
                name, integer=True, positive=True if first is not None and first > 0 else None
            )
        counts = any(name in symbols_of(bound) for bound in self._bounds)
        return (
            self._sympy.Symbol(name, integer=True, positive=True)
            if counts
            else self._sympy.Symbol(name, real=True)
        )

    def value(self) -> Expression:
        """The value of the series. Raises Undecided if sympy has none."""
        sympy = self._sympy
        body, index = self._to(self._body), self._to(self._index)
        bounds = [self._to(bound) for bound in self._bounds]
        if self._kind == "derivative":
            assert isinstance(self._index, Symbol)
            return replaced(self._from(sympy.diff(body, index)), self._index, self._bounds[0])
        if self._kind == "add":
            return self._from(sympy.Sum(body, (index, *bounds)).doit())
        if self._kind == "multiply":
            return self._from(self._product(body, index, *bounds))
        if self._kind == "integral":
            return self._from(sympy.Integral(body, (index, *bounds)).doit())
        infinite = bounds[0] in (sympy.oo, -sympy.oo)
        return self._from(sympy.limit(body, index, bounds[0], "+" if infinite else _SIDES[self._kind]))

    def _product(self, body: Any, index: Any, low: Any, high: Any) -> Any:
        """An infinite product as the limit of finite ones, of which sympy knows more."""
        if high != self._sympy.oo:
            return self._sympy.Product(body, (index, low, high)).doit()
        last = self._sympy.Dummy(integer=True, positive=True)
        finite = self._sympy.Product(body, (index, low, last)).doit()
        return self._sympy.limit(self._sympy.combsimp(finite), last, self._sympy.oo)

    def _to(self, expression: Expression) -> Any:
        sympy = self._sympy
        if isinstance(expression, Symbol):
            return self._symbols[expression.name]
        if isinstance(expression, Number):
            return sympy.Rational(*_small(expression.value).as_integer_ratio())
        name = expression.name
        if name in _CONSTANTS:
            return getattr(sympy, _CONSTANTS[name])
        _check_written_out(expression)
        arguments = [self._to(argument) for argument in expression.arguments]
        match name, arguments:
            case "add", _:
                return sympy.Add(*arguments)
            case "multiply", _:
                return sympy.Mul(*arguments)
            case "negate", [value]:
                return -value
            case "divide", [above, below]:
                return above / below
            case "power", [base, exponent]:
                return sympy.Pow(base, exponent)
            case "percent", [value]:
                return value / 100
            case "degrees", [value]:
                return value * sympy.pi / 180
            case "lg", [value]:
                return sympy.log(value) / sympy.log(10)
        if name not in _TO_SYMPY:
            raise Undecided(f"sympy is not asked for {name}")
        return getattr(sympy, _TO_SYMPY[name])(*arguments)

    def _from(self, value: Any) -> Expression:
        sympy = self._sympy
        if isinstance(value, sympy.Piecewise) and len(value.args) == 2:
            # Where it converges, and what is left as it was where it does not.
            (inside, _), (outside, _) = value.args
            if isinstance(outside, sympy.Sum | sympy.Integral | sympy.Product):
                value = inside
        found = self._translated(value)
        if size_of(found) > MAX_RESULT:
            raise Undecided("sympy found a value that is too large")
        return found

    def _translated(self, value: Any) -> Expression:
        if value.is_Symbol and value in self._names:
            return Symbol(self._names[value])
        if value.is_Rational:
            number = Fraction(int(value.p), int(value.q))
            return Number(_small(number))
        for ours, theirs in _CONSTANTS.items():
            if value == getattr(self._sympy, theirs):
                return Operation(ours)
        if value == -self._sympy.oo:
            return Operation("negate", (Operation("infinity"),))
        name = type(value).__name__
        arguments = tuple(self._translated(argument) for argument in value.args)
        if name in ("Add", "Mul"):
            return _joined({"Add": "add", "Mul": "multiply"}[name], arguments)
        if name == "Pow":
            return Operation("power", arguments)
        if name in ("sqrt", "cbrt", "root") or name not in _FROM_SYMPY or not arguments:
            raise Undecided(f"sympy found no value that is known here, but one with {name}")
        return Operation(_FROM_SYMPY[name], arguments)


def _joined(name: str, arguments: tuple[Expression, ...]) -> Expression:
    found = arguments[0]
    for argument in arguments[1:]:
        found = Operation(name, (found, argument))
    return found


def _small(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise Undecided("too large a number for computer algebra")
    return number


def _check_written_out(expression: Operation) -> None:
    """Raise Undecided for what sympy would write out as a number of many digits."""
    values = [exact_value(argument) for argument in expression.arguments]
    if expression.name in _WRITTEN_OUT and any(
        value is not None and abs(value) > MAX_ARGUMENT for value in values
    ):
        raise Undecided(f"too large a {expression.name} for computer algebra")
    if expression.name == "power" and values[1] is not None:
        base = values[0] or Fraction(2)
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * max(abs(values[1].numerator), values[1].denominator) > MAX_BITS:
            raise Undecided("too large a power for computer algebra")
