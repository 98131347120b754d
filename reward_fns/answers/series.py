r"""What a variable runs through: sums and products that are not written out, integrals, limits and derivatives.

They are operations of their own, ``series_`` and a kind, with these arguments:

    add, multiply                  body, variable, first, last
    integral                       body, variable, low, high
    limit, limit_above, limit_below  body, variable, what it tends to
    derivative                     body, variable, where

The variable is renamed, to ``#1`` in a body without another of these, to ``#2`` outside of one such, and so on.
"""

from __future__ import annotations

from collections.abc import Callable

from reward_fns.answers.values import Expression, Operation, Symbol, walk

PREFIX = "series_"
MAX_SERIES = 8  # in two expressions that are compared

Same = Callable[[Expression, Expression], bool]


def series(operation: str, body: Expression, index: Expression, *bounds: Expression) -> Operation:
    """The series of ``body`` over ``index``: a Symbol, or the imaginary unit where i is the index."""
    runs = Symbol(f"#{1 + max(map(_level, walk(body)))}")
    return Operation(PREFIX + operation, (replaced(body, index, runs), runs, *bounds))


def is_series(expression: Expression) -> bool:
    """Whether the expression is a series itself."""
    return isinstance(expression, Operation) and expression.name.startswith(PREFIX)


def has_series(expression: Expression) -> bool:
    """Whether a series is a part of the expression."""
    return any(map(is_series, walk(expression)))


def replaced(expression: Expression, old: Expression, new: Expression) -> Expression:
    """The expression with ``new`` for every ``old``."""
    if expression == old:
        return new
    if isinstance(expression, Operation):
        return Operation(expression.name, tuple(replaced(each, old, new) for each in expression.arguments))
    return expression


class Opaque:
    """Gives series names, the same name to the same series, so that what stands around them can be compared.

    same: compares the parts of two series.
    """

    def __init__(self, same: Same) -> None:
        self._same = same
        self._known: list[tuple[Operation, Symbol]] = []

    def named(self, expression: Expression) -> Expression | None:
        """The expression with a name for each series; None where there are too many."""
        if not isinstance(expression, Operation):
            return expression
        if is_series(expression):
            return self._name(expression)
        arguments = tuple(map(self.named, expression.arguments))
        return None if None in arguments else Operation(expression.name, arguments)  # type: ignore[arg-type]

    def _name(self, found: Operation) -> Symbol | None:
        for known, name in self._known:
            pairs = zip(found.arguments, known.arguments, strict=True)
            if found.name == known.name and all(a == b or self._same(a, b) for a, b in pairs):
                return name
        if len(self._known) == MAX_SERIES:
            return None
        name = Symbol(f"#series{len(self._known)}")
        self._known.append((found, name))
        return name


def _level(node: Expression) -> int:
    name = node.name if isinstance(node, Symbol) else ""
    return int(name[1:]) if name.startswith("#") else 0
