"""What an answer can be. Values are immutable, and equal to each other (==) only if they were written alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written: an integer, a decimal or a mixed number."""

    value: Fraction
    decimals: int | None = field(default=None, compare=False)  # digits after the point, None without a point


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, with its index and primes."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation or function by name (``add``, ``power``, ``sin``), or a constant (``pi``) without arguments."""

    name: str
    arguments: tuple[Expression, ...] = ()


Expression = Number | Symbol | Operation


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and all within it."""
    waiting = [expression]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Operation):
            waiting.extend(node.arguments)


def size_of(expression: Expression) -> int:
    """How many numbers, symbols and operations it is made of."""
    return sum(1 for _ in walk(expression))


def symbols_of(expression: Expression) -> frozenset[str]:
    """The names of all variables in it."""
    return frozenset(node.name for node in walk(expression) if isinstance(node, Symbol))


def with_common_logarithms(expression: Expression) -> Expression:
    """The same with ``log`` as the logarithm of base ten."""
    if not isinstance(expression, Operation):
        return expression
    name = "lg" if expression.name == "log" else expression.name
    return Operation(name, tuple(map(with_common_logarithms, expression.arguments)))


@dataclass(frozen=True, slots=True)
class Quantity:
    """An expression, with a unit if there is one."""

    expression: Expression
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name it was given: ``x = 5``, ``f(x) = 2x``, ``S = {1, 2}``."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers in any order; repeated ones count in a list and not in a set."""

    items: tuple[Value, ...]
    kind: Literal["list", "set"] = "list"


@dataclass(frozen=True, slots=True)
class Bracketed:
    """An ordered tuple, a point or an interval, which the brackets alone do not say; with colons a ratio."""

    left: str
    items: tuple[Value, ...]
    right: str


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers between two ends; a single number where they are the same and closed."""

    low: Expression
    high: Expression
    closed_low: bool
    closed_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers: intervals, ascending where their ends are known. `variable`: the one with these values."""

    intervals: tuple[Interval, ...]
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that defines no single variable."""

    operator: Literal["=", "<", "<=", "!="]
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number in a base that is written beside it."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Text:
    """Words, or a formula that is none of the above: compared as it is written."""

    text: str


Value = Quantity | Named | Listing | Bracketed | Region | Relation | Matrix | Numeral | Text
