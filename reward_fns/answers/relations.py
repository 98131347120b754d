"""Equations and inequalities: what they define, or the curve or region that they describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reward_fns.answers import vocabulary as words
from reward_fns.answers.exact import exact_value
from reward_fns.answers.parser import parse
from reward_fns.answers.regions import INFINITY, MINUS_INFINITY, ZERO, half_line, intersection, point, union
from reward_fns.answers.series import has_series
from reward_fns.answers.structure import Tokens, enclosed, has, matches, split, written
from reward_fns.answers.tokens import NotReadable, Token
from reward_fns.answers.values import (
    Expression,
    Interval,
    Listing,
    Named,
    Operation,
    Quantity,
    Region,
    Relation,
    Symbol,
    Text,
    Value,
    symbols_of,
    walk,
)

OPERATORS = ("=", "<", "<=", ">", ">=", "!=", "in")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}
_FUNCTIONS = frozenset("fghFGHP")
_DECORATIONS = {
    "angle",
    "triangle",
    "overline",
    "widehat",
    "vec",
    "hat",
    "bar",
    "overrightarrow",
    "mathbb",
    "Delta",
}

_UNEVALUATED = {
    "int",
    "iint",
    "oint",
    "lim",
    "sum",
    "prod",
    "det",
    "angle",
    "measuredangle",
    "partial",
    "nabla",
}

Read = Callable[[Tokens], Value]


def relate(parts: list[list[Token]], operators: list[str], read: Read) -> Value:
    """The value of parts with relation signs between them. Raises NotReadable where they make no sense."""
    if set(operators) == {"="}:
        return _equation(parts, read)
    if operators == ["in"]:
        return Named(written(parts[0]), read(parts[1]))
    if "=" in operators or "in" in operators or len(operators) > 2 or not all(parts):
        raise NotReadable("relations of several kinds")
    return _inequality([parse(part) for part in parts], operators)


def approximated(parts: list[list[Token]], read: Read) -> Value:
    r"""The exact value of ``\sqrt2 \approx 1.41``; without one the approximation."""
    if len(parts) != 2 or not parts[1]:
        raise NotReadable("approximations of approximations")
    if not parts[0]:
        return read(parts[1])
    exact, near = read(parts[0]), read(parts[1])
    return Named(written(parts[0]), near) if is_name(parts[0]) else exact


def without_domains(values: list[Value]) -> list[Value]:
    r"""Without what only says what a variable may be: n \in \mathbb{Z}."""
    kept = [value for value in values if not (isinstance(value, Named) and _is_number_set(value.value))]
    return kept or values


def _is_number_set(value: Value) -> bool:
    return isinstance(value, Text) and value.text.startswith(r"\mathbb")


def _equation(parts: list[list[Token]], read: Read) -> Value:
    first, last = parts[0], parts[-1]
    if not last or (not first and len(parts) != 2):
        raise NotReadable("an equation of one side")
    if not first:  # "= 5"
        return read(last)
    if len(first) > 1 and len(last) > 1 and len(parts) == 2 and is_name(first) and is_name(last):
        try:
            return Relation("=", parse(first), parse(last))  # f' = f defines neither
        except NotReadable:
            return Named(written(first), Text(written(last)))
    name = written(first) if is_name(first) else ratio_name(first)
    if name:
        _refuse_contradiction(parts[1:])
        return Named(name, read(last))
    if len(parts) > 2:
        _refuse_contradiction(parts)
        return read(last)
    if is_name(last):
        return Named(written(last), read(first))
    try:
        left = parse(first)
    except NotReadable:
        if first[0].text not in _UNEVALUATED:
            raise
        return Named(written(first), read(last))  # the integral is 1/2
    try:
        right = parse(last)
    except NotReadable:
        if not symbols_of(left):
            raise
        return Named(written(first), read(last))  # R^6 = (a matrix)
    if first[0].text in _UNEVALUATED and has_series(left):
        return Named(written(first), read(last))
    value = exact_value(left)
    if value is not None and value == exact_value(right):  # "2 + 3 = 5" states its right side
        return Quantity(right)
    return Relation("=", left, right)


def _refuse_contradiction(parts: list[list[Token]]) -> None:
    """Raise NotReadable where rational parts of a chain of equations differ."""
    if len(parts) > 1:
        values = {exact_value(parse(part)) for part in parts if not has(part, ",")}
        if len(values - {None}) > 1:
            raise NotReadable("an equation that does not hold")


def is_name(tokens: Tokens) -> bool:
    """Whether tokens name something rather than compute it: x, x_1, f(x), AB, (a, b), \\angle ABC, \\text{area}."""
    if len(tokens) > 2 and tokens[0].text == tokens[-1].text == "|":
        return is_name(tokens[1:-1])
    if (around := enclosed(tokens)) is not None and around[0] == "(":
        return all(is_name(part) for part in split(around[1], (",",))[0])
    if any(token.text.lower() in words.UNCERTAIN for token in tokens):
        return False
    if written(tokens).startswith((r"\frac{d", r"\fracd{d")):  # a derivative: dy/dx, or d/dx of something
        return True
    letters = [token for token in tokens if token.kind == "letter"]
    if len(tokens) == 1 and letters:
        return letters[0].text not in ("e", "i")
    index, named = 0, False
    while index < len(tokens):
        token = tokens[index]
        if (
            token.kind == "word"
            or token.text in words.GREEK
            or (token.kind == "letter" and _may_name(tokens, index, letters))
        ):
            named = True
            index += 1
            if token.text in _FUNCTIONS and written(tokens[index : index + 5]) == "^{-1}":  # the inverse
                index += 5
            while index < len(tokens) and tokens[index].text in ("'", "_"):
                index = index + 1 if tokens[index].text == "'" else _after_group(tokens, index + 1)
            if index < len(tokens) and tokens[index].text == "(":
                end = _after_group(tokens, index)
                if not _may_call(token, tokens[index + 1 : end - 1]):
                    return False
                index = end
        elif token.text == "_":
            index = _after_group(tokens, index + 1)
        elif token.text in ("'", "{", "}") or token.text in _DECORATIONS:
            index += 1
        else:
            return False
    return named


def ratio_name(tokens: Tokens) -> str:
    r"""``AB:CD`` for AB:CD, \frac{AB}{CD} and AB/CD; "" for anything else, as a quotient of single letters."""
    parts = split(tokens, (":",))[0]
    if len(parts) == 1:
        parts = _above_and_below(tokens)
        if not all(any(token.kind == "word" for token in part) for part in parts):
            return ""  # a quotient of variables
    if len(parts) < 2 or not all(part and is_name(part) for part in parts):
        return ""
    return ":".join(map(written, parts))


def _above_and_below(tokens: Tokens) -> list[list[Token]]:
    if tokens and tokens[0].text == "frac":
        middle = _after_group(tokens, 1)
        if middle < len(tokens) and _after_group(tokens, middle) == len(tokens):
            return [list(tokens[1:middle]), list(tokens[middle:])]
    parts = split(tokens, ("/",))[0]
    return parts if len(parts) == 2 else []


def _may_name(tokens: Tokens, index: int, letters: Sequence[Token]) -> bool:
    """One variable, also with an index or an argument, or capital letters: points, lines and triangles."""
    follows = tokens[index + 1].text if index + 1 < len(tokens) else ""
    alone = index == 0 and follows in ("(", "_", "'", "^")
    return len(letters) == 1 or alone or tokens[index].text.isupper()


def _may_call(token: Token, arguments: Tokens) -> bool:
    """Whether a letter before brackets is a function: u(x, t) and f(x + 1) are, R(R - 2r) is a product."""
    plain = all(each.kind in ("letter", "number") or each.text in (",", *words.GREEK) for each in arguments)
    return plain or token.kind == "word" or token.text in _FUNCTIONS


def _after_group(tokens: Tokens, start: int) -> int:
    """Where the group or single token at ``start`` ends."""
    if start >= len(tokens):
        raise NotReadable("a name that breaks off")
    return matches(tokens).get(start, start) + 1


def _inequality(sides: list[Expression], operators: list[str]) -> Value:
    if (found := _around(sides, operators)) is not None:
        return found
    for place, side in enumerate(sides):
        others = [other for index, other in enumerate(sides) if index != place]
        if isinstance(side, Symbol) and not any(side.name in symbols_of(other) for other in others):
            return Region(_solved(place, sides, operators), side.name)
    if len(sides) > 2:
        raise NotReadable("a chain of inequalities without a variable")
    left, right = sides
    operator = operators[0]
    if operator in (">", ">="):
        left, right, operator = right, left, _TURNED[operator]
    return Relation(operator, left, right)  # type: ignore[arg-type]


def _around(sides: list[Expression], operators: list[str]) -> Region | None:
    """|x - a| < b and the like as a set of numbers; None for anything else."""
    if len(sides) != 2 or all(map(symbols_of, sides)):
        return None
    (left, right), operator = sides, operators[0]
    if symbols_of(right):
        left, right, operator = right, left, _TURNED[operator]
    match left:
        case Operation("abs", (Symbol(name),)):
            middle: Expression = ZERO
        case Operation("abs", (Operation("add", (Symbol(name), shift)),)) if not symbols_of(shift):
            middle = Operation("negate", (shift,))
        case _:
            return None
    low, high = Operation("add", (middle, Operation("negate", (right,)))), Operation("add", (middle, right))
    if operator in ("<", "<="):
        closed = operator == "<="
        return Region(union([Interval(low, high, closed, closed)]), name)
    if operator in (">", ">="):
        below, above = half_line(_TURNED[operator], low), half_line(operator, high)
        return Region(union([*below.intervals, *above.intervals]), name)
    return None


def _solved(place: int, sides: list[Expression], operators: list[str]) -> tuple[Interval, ...]:
    """The numbers for which the side at ``place`` is in the relations to its neighbours."""
    if len(sides) == 3 and (place != 1 or not ({*operators} <= {"<", "<="} or {*operators} <= {">", ">="})):
        raise NotReadable("a chain of inequalities in several directions")
    found: tuple[Interval, ...] | None = None
    for index, operator in enumerate(operators):
        bound = sides[index + 1] if index == place else sides[index]
        mine = half_line(operator if index == place else _TURNED[operator], bound).intervals
        if found is None:
            found = mine
        elif (both := intersection(found, mine)) is not None:
            found = both
        else:  # symbolic ends: one bounds from below, the other from above
            low, high = (found[0], mine[0]) if operators[0] in ("<", "<=") else (mine[0], found[0])
            found = (Interval(low.low, high.high, low.closed_low, high.closed_high),)
    assert found is not None
    return found


def combine(values: list[Value], separators: Sequence[str]) -> Value | None:
    """What the parts of a list say together: values of one variable, or a set of numbers; None if nothing."""
    names = {value.name for value in values if isinstance(value, Named)}
    if len(names) == 1 and isinstance(values[0], Named):
        items = tuple(value.value if isinstance(value, Named) else value for value in values)
        if all(isinstance(item, Quantity | Listing) for item in items):
            return Named(names.pop(), Listing(items))
    regions = [_region_of(value) for value in values]
    variables = {region.variable for region in regions if region is not None}
    if None in regions or len(variables) != 1 or variables == {None}:
        return None
    pieces = [region.intervals for region in regions if region is not None]
    common: tuple[Interval, ...] | None = pieces[0]
    for piece in pieces[1:]:
        common = None if common is None else intersection(common, piece)
    # A comma means "and" where that leaves something, as in x > 0, x < 3, and "or" in x < 0, x > 3.
    if common is not None and "or" not in separators and (common or "and" in separators):
        return Region(common, variables.pop())
    return Region(union([each for piece in pieces for each in piece]), variables.pop())


def grouped(values: Sequence[Value]) -> Listing | None:
    """``a = 3, b = 4; a = 6, b = 1`` as a list of two lists; None where names do not come again in turn."""
    named = [value for value in values if isinstance(value, Named)]
    size = len({value.name for value in named})
    if len(named) < len(values) or size < 2 or len(named) == size or len(named) % size:
        return None
    groups = [named[start : start + size] for start in range(0, len(named), size)]
    if any(len({value.name for value in group}) < size for group in groups):
        return None
    return Listing(tuple(Listing(tuple(group)) for group in groups))


def _region_of(value: Value) -> Region | None:
    """An inequality, or a value of a variable, as a set of numbers."""
    if isinstance(value, Region) and value.variable is not None:
        return value
    if isinstance(value, Named) and isinstance(value.value, Quantity):
        return Region((point(value.value.expression),), value.name)
    return None


def right_side(value: Value) -> Quantity | None:
    """What an equation says its left side is, if that is a number; a quantity itself."""
    match value:
        case Quantity():
            return value
        case Relation("=", left, right) if not symbols_of(right) and _is_asked_for(left):
            return Quantity(right)
    return None


def _is_asked_for(left: Expression) -> bool:
    """Whether a question may ask for the value of this: a + b and cos x, but not 2x, nor what a curve is."""
    if isinstance(left, Operation) and left.name in ("sin", "cos", "tan"):
        return True
    plain = all(isinstance(node, Symbol) or _is_plain(node) for node in walk(left))
    return plain and len(symbols_of(left)) > 1


def _is_plain(node: Expression) -> bool:
    return isinstance(node, Operation) and node.name in ("add", "negate", "multiply", "divide")


def as_relation(value: Value) -> Relation | None:
    """``y = 2x`` as an equation of two sides, ``x < 2`` as an inequality of two."""
    if isinstance(value, Relation):
        return value
    if isinstance(value, Region) and value.variable is not None and len(value.intervals) == 1:
        (each,), x = value.intervals, Symbol(value.variable)
        if each.low == MINUS_INFINITY:
            return Relation("<=" if each.closed_high else "<", x, each.high)
        if each.high == INFINITY:
            return Relation("<=" if each.closed_low else "<", each.low, x)
    if isinstance(value, Named) and isinstance(value.value, Quantity) and len(value.name) == 1:
        return Relation("=", Symbol(value.name), value.value.expression)
    return None
