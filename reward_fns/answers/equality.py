"""Whether two answers are the same: a ladder from what is cheap to what is thorough. Types must match.

    the same tokens -> the same rational number -> the same structure -> the same values to many digits
    -> the same values after sums, integrals, limits and derivatives were computed

It is symmetric, but for the two rules that look at the truth: its decimals allow for rounding, and its percent sign may
be left out where the caller allows that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeVar

from reward_fns.answers import vocabulary as words
from reward_fns.answers.exact import exact_value
from reward_fns.answers.reader import intervals_of, reading
from reward_fns.answers.regions import single_points
from reward_fns.answers.relations import as_relation, right_side
from reward_fns.answers.series import Opaque, has_series
from reward_fns.answers.tokens import MAX_CHARACTERS, NotReadable
from reward_fns.answers.values import (
    Bracketed,
    Expression,
    Interval,
    Listing,
    Matrix,
    Named,
    Number,
    Numeral,
    Operation,
    Quantity,
    Region,
    Relation,
    Text,
    Value,
    size_of,
    walk,
    with_common_logarithms,
)
from reward_fns.answers.wording import is_nothing, same_text, states_analysis

T = TypeVar("T")

MAX_COMPARED = 15_000  # sizes of the expressions that are compared by value; sets are compared item by item
RELATIVE_TOLERANCE = Fraction(1, 10_000)
LONG_DECIMAL = 6  # significant digits
ALGEBRA_SECONDS = 5.0
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")
_FONT = re.compile(r"\\(?:text|textbf|mathbf|mathrm|textrm)\s*\{([^{}]*)\}")
_UPRIGHT_E = re.compile(r"\\(?:text|textrm|textnormal|mbox|operatorname)\s*\{\s*e\s*\}")
_LETTER = re.compile(r"\s*\(?(?P<letter>[A-J])\)?[.:]?\s*")
# Of a multiple choice, with its content: (A) 12, A. 12, Option A.
_CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?\(?(?P<letter>[A-J])"
    r"(?:[).:]+(?!(?:\s|\\ )*(?:or\b|and\b|\(?[A-J][).]))(?:\s|\\ )*(?P<rest>[^,]*))?"
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be left to the caller.

    relative_tolerance: a truth that is a decimal accepts an answer that differs by no more than this share of it and
    has the same digits as far as both have any. bare_percent: ``50`` is right for ``50%``, and the other way round.
    long_decimals: a decimal of at least six significant digits is right for a fraction that it is, rounded or cut off.
    algebra_seconds: most CPU time that computer algebra may take; 0 leaves it out.
    """

    relative_tolerance: Fraction = RELATIVE_TOLERANCE
    bare_percent: bool = False
    long_decimals: bool = False
    algebra_seconds: float = ALGEBRA_SECONDS


class Verdict(NamedTuple):
    """Whether two answers are the same; undecided: if not, why that could not be decided, or ""."""

    same: bool
    undecided: str = ""


def same_answer(answer: str, truth: str, rules: Rules | None = None) -> bool:
    """Whether an answer is the truth; see `compare`."""
    return compare(answer, truth, rules).same


def compare(answer: str, truth: str, rules: Rules | None = None) -> Verdict:
    """Compare an answer with the truth. Never raises, and takes bounded time; nothing in the text is executed."""
    answer, truth = answer.strip(), truth.strip()
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(truth):
        return Verdict(int(answer) == int(truth))
    if answer == truth:
        return Verdict(answer != "")
    once = _compare_once if len(answer) + len(truth) <= MAX_CHARACTERS else _compare
    return once(answer, truth, Rules() if rules is None else rules)


def _compare(answer: str, truth: str, rules: Rules) -> Verdict:
    try:
        if _UPRIGHT_E.search(answer) and _has_e(reading(truth)):
            answer = _UPRIGHT_E.sub(" e ", answer)
        judge = _Judge(rules)
        same = (
            judge.same(reading(answer), reading(truth))
            or _same_choice(answer, truth, rules)
            or _same_with_unit(answer, truth, rules)
        )
        return Verdict(same, "" if same else judge.undecided)
    except RecursionError:  # hundreds of operations within each other
        return Verdict(False)


# The responses of a group often have the same answer.
_compare_once = lru_cache(maxsize=8192)(_compare)


def _same_choice(answer: str, truth: str, rules: Rules) -> bool:
    """Whether "(A) 12" is the choice A or the answer 12, whichever the truth is."""
    match = _CHOICE.fullmatch(_FONT.sub(r"\1", answer)) if len(answer) <= MAX_CHARACTERS else None
    if match is None:
        return False
    if (choice := _LETTER.fullmatch(_FONT.sub(r"\1", truth))) is not None:
        return match["letter"] == choice["letter"]
    return bool(match["rest"]) and same_answer(match["rest"], truth, rules)


def _same_with_unit(answer: str, truth: str, rules: Rules) -> bool:
    """Whether a number and a letter that is a unit, ``5m``, are the truth, which is a number: 5, ``5 \\text{ m}``."""
    match = words.LETTER_UNIT.fullmatch(answer.strip("$ ")) if len(answer) <= MAX_CHARACTERS else None
    true = reading(truth) if match is not None else None
    if match is None or not isinstance(true, Quantity) or exact_value(true.expression) is None:
        return False
    with_unit = rf"{match['number']} \text{{ {match['unit']}}}{match['power'] or ''}"
    return _sign_of(true.expression) == "" and same_answer(with_unit, truth, rules)


class _Judge:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._left = MAX_COMPARED
        self._spent = 0.0  # seconds of computer algebra
        self.undecided = ""  # why something could not be decided, if anything

    def same(self, answer: Value, truth: Value) -> bool:
        """Whether two values are the same."""
        if isinstance(answer, Named) or isinstance(truth, Named):
            return self._same_named(answer, truth)
        if isinstance(answer, Text) or isinstance(truth, Text):
            if states_analysis(truth):
                self.undecided = "the truth has an integral, sum or limit that is not read"
            return same_text(answer, truth) or (is_nothing(answer) and is_nothing(truth))
        if isinstance(answer, Quantity) and isinstance(truth, Quantity):
            return self._same_quantity(answer, truth)
        if isinstance(answer, Relation) or isinstance(truth, Relation):
            return self._same_relation(answer, truth)
        if isinstance(answer, Quantity) or isinstance(truth, Quantity):
            return self._same_single(answer, truth)
        if isinstance(answer, Region) or isinstance(truth, Region):
            return self._same_region(answer, truth)
        if isinstance(answer, Listing) and isinstance(truth, Listing):
            return self._same_items(answer, truth)
        answer, truth = _as_point(answer), _as_point(truth)
        if isinstance(answer, Bracketed) and isinstance(truth, Bracketed):
            if (answer.left, answer.right) != (truth.left, truth.right):
                return False
            return self._all_same(_in_proportion(answer, truth), _in_proportion(truth, answer))
        if isinstance(answer, Matrix) and isinstance(truth, Matrix):
            rows = zip(answer.rows, truth.rows, strict=False)
            return len(answer.rows) == len(truth.rows) and all(self._all_same(*pair) for pair in rows)
        return isinstance(answer, Numeral) and answer == truth

    def _same_relation(self, answer: Value, truth: Value) -> bool:
        """Equations and inequalities; ``a + b = 5`` states 5."""
        if isinstance(answer, Quantity) or isinstance(truth, Quantity):
            mine, true = right_side(answer), right_side(truth)
            return mine is not None and true is not None and self._same_quantity(mine, true)
        return self._same_curve(as_relation(answer), as_relation(truth))

    def _same_curve(self, answer: Relation | None, truth: Relation | None) -> bool:
        if answer is None or truth is None:
            return False
        if any(map(has_series, (answer.left, answer.right, truth.left, truth.right))):
            self.undecided = "an equation or inequality with a sum, integral, limit or derivative"
        self._left -= sum(size_of(side) for each in (answer, truth) for side in (each.left, each.right))
        return self._left >= 0 and _same_relation(answer, truth)

    def _same_single(self, answer: Value, truth: Value) -> bool:
        """A number and a list of it alone: ``\\frac12 or 0.5``; a fraction and a ratio of two: 3/4 and 3:4."""
        ratio, other = (answer, truth) if isinstance(answer, Bracketed) else (truth, answer)
        if isinstance(ratio, Bracketed) and isinstance(other, Quantity):
            quotient = _quotient(ratio)
            fraction = _is("divide", other.expression) and not other.unit
            return fraction and isinstance(quotient, Quantity) and self._same_quantity(quotient, other)
        if isinstance(answer, Quantity) and isinstance(truth, Listing) and truth.kind == "list":
            return all(self.same(answer, item) for item in truth.items)
        if isinstance(answer, Listing) and answer.kind == "list":
            return all(self.same(item, truth) for item in answer.items)
        return False

    def _all_same(self, answers: Sequence[Value], truths: Sequence[Value]) -> bool:
        return len(answers) == len(truths) and all(map(self.same, answers, truths))

    def _same_named(self, answer: Value, truth: Value) -> bool:
        """A name on one side is no part of the answer; on both sides it is."""
        if isinstance(answer, Named) and isinstance(truth, Named):
            if answer.name.partition("(")[0] == truth.name.partition("(")[0]:  # y(x) and y
                both = (answer.value, truth.value)
                return self.same(*(map(_quotient, both) if _is_ratio(answer) else both))
            if isinstance(answer.value, Text) and isinstance(truth.value, Text):  # AB = AC
                return (answer.name.casefold(), answer.value.text) == (
                    truth.value.text,
                    truth.name.casefold(),
                )
            return self._same_curve(as_relation(answer), as_relation(truth))
        if isinstance(answer, Relation) or isinstance(truth, Relation):
            return self._same_curve(as_relation(answer), as_relation(truth))
        mine, true = _unnamed(answer), _unnamed(truth)
        if _is_ratio(answer) or _is_ratio(truth):
            mine, true = _quotient(mine), _quotient(true)
        # "A = B" is not the choice (B).
        return isinstance(mine, Text) == isinstance(true, Text) and self.same(mine, true)

    def _same_quantity(self, answer: Quantity, truth: Quantity) -> bool:
        mine, true = answer.expression, truth.expression
        if not _units_agree(answer.unit or _sign_of(mine), truth.unit or _sign_of(true)):
            return False
        if self._same_expression(mine, true):
            return True
        in_radians = "radian" in (answer.unit, truth.unit)
        if _is("degrees", mine) != _is("degrees", true) and not in_radians:  # the sign of degrees left out
            return self._same_expression(_inside("degrees", mine), _inside("degrees", true))
        if self._rules.bare_percent and _is("percent", mine) != _is("percent", true):
            return self._same_expression(_inside("percent", mine), _inside("percent", true))
        return False

    def _same_expression(self, answer: Expression, truth: Expression) -> bool:
        if answer == truth:
            return True
        mine, true = exact_value(answer), exact_value(truth)
        if mine is not None and true is not None and mine == true:
            return True
        if (mine is None and has_series(answer)) or (true is None and has_series(truth)):
            return self._same_series(answer, truth)
        decimals = _decimals(truth)
        if decimals is not None and true is not None:
            found = mine if mine is not None else _approximate(answer)
            return found is not None and self._agree(found, _decimals(answer), true, decimals)
        if self._rules.long_decimals and mine is not None and true is not None:
            return _is_long_decimal_of(answer, mine, true)
        self._left -= size_of(answer) + size_of(truth)
        return self._left >= 0 and _same_function(answer, truth, mine, true)

    def _same_series(self, answer: Expression, truth: Expression) -> bool:
        """Sums, integrals, limits and derivatives: as they are written, and then by what they come to."""
        self._left -= size_of(answer) + size_of(truth)
        if self._left < 0:
            return False
        if _same_as_written(answer, truth):
            return True
        if not has_series(truth):  # the question may ask for just this to be computed
            self.undecided = "the answer leaves a sum, integral, limit or derivative to be computed"
            return False
        if self._rules.algebra_seconds <= 0:
            self.undecided = "computer algebra is off"
            return False
        from reward_fns.answers import algebra, numeric

        with suppress(numeric.Undecided):
            return self._timed(algebra.same_number, answer, truth)
        try:
            mine, true = (self._timed(algebra.computed, each) for each in (answer, truth))
        except numeric.Undecided as reason:
            self.undecided = str(reason)
            return False
        return self._same_expression(mine, true)

    def _timed(self, function: Callable[..., T], *arguments: Expression) -> T:
        """Call a function of `algebra` with the seconds that are left of those that the rules give a comparison."""
        begun = time.process_time()
        try:
            return function(*arguments, round(self._rules.algebra_seconds - self._spent, 1))
        finally:
            self._spent += time.process_time() - begun

    def _agree(self, answer: Fraction, digits: int | None, truth: Fraction, true_digits: int) -> bool:
        """Whether one is the other, rounded; digits: after the point of the answer."""
        apart = abs(answer - truth)
        fewest = true_digits if digits is None else min(digits, true_digits)
        half = Fraction(1, 2) / Fraction(10) ** fewest
        return apart <= half and apart <= self._rules.relative_tolerance * max(abs(answer), abs(truth))

    def _same_items(self, answer: Listing, truth: Listing) -> bool:
        mine, true = list(answer.items), list(truth.items)
        if "set" in (answer.kind, truth.kind):
            mine, true = self._distinct(mine), self._distinct(true)
        if len(mine) != len(true):
            return False
        for item in mine:
            place = next((n for n, other in enumerate(true) if self.same(item, other)), None)
            if place is None:
                return False
            del true[place]
        return True

    def _distinct(self, items: list[Value]) -> list[Value]:
        found: list[Value] = []
        for item in items:
            if not any(self.same(item, other) for other in found):
                found.append(item)
        return found

    def _same_region(self, answer: Value, truth: Value) -> bool:
        """Sets of numbers. Intervals in brackets are tuples until they are compared with one."""
        try:
            mine, true = intervals_of(answer), intervals_of(truth)
        except NotReadable:
            return False
        if isinstance(answer, Listing) or isinstance(truth, Listing):
            return self._same_points(answer, truth)
        names = {value.variable for value in (answer, truth) if isinstance(value, Region)} - {None}
        return len(names) < 2 and len(mine) == len(true) and all(map(self._same_interval, mine, true))

    def _same_points(self, answer: Value, truth: Value) -> bool:
        points = [value if isinstance(value, Listing) else _as_points(value) for value in (answer, truth)]
        mine, true = points
        return mine is not None and true is not None and self._same_items(mine, true)

    def _same_interval(self, answer: Interval, truth: Interval) -> bool:
        closed = (answer.closed_low, answer.closed_high) == (truth.closed_low, truth.closed_high)
        return (
            closed
            and self._same_expression(answer.low, truth.low)
            and self._same_expression(answer.high, truth.high)
        )


def _as_point(value: Value) -> Value:
    """``x = 2, y = 3`` as the point (2, 3)."""
    if isinstance(value, Listing) and all(isinstance(item, Named) for item in value.items):
        named = [item for item in value.items if isinstance(item, Named)]
        if len({item.name for item in named}) == len(named) > 1:
            return Bracketed("(", tuple(item.value for item in named), ")")
    return value


def _in_proportion(value: Bracketed, other: Bracketed) -> tuple[Value, ...]:
    """The items; those of a ratio times the other's first, so that 2:4 and 1:2 have the same."""
    match value, other:
        case Bracketed(":", items), Bracketed(":", (Quantity(first), *_)):
            return tuple(
                Quantity(Operation("multiply", (item.expression, first)))
                for item in items
                if isinstance(item, Quantity)
            )
    return value.items


def _as_points(value: Value) -> Listing | None:
    points = single_points(value) if isinstance(value, Region) else None
    return None if points is None else Listing(tuple(map(Quantity, points)), "set")


def _same_as_written(answer: Expression, truth: Expression) -> bool:
    """Whether sums, integrals and the like have the same parts, and what is around them the same values."""
    if has_series(answer) or has_series(truth):
        opaque = Opaque(_same_as_written)
        left, right = opaque.named(answer), opaque.named(truth)
        return left is not None and right is not None and _same_as_written(left, right)
    return answer == truth or _same_function(answer, truth, exact_value(answer), exact_value(truth))


def _same_function(
    answer: Expression, truth: Expression, mine: Fraction | None, true: Fraction | None
) -> bool:
    if mine is not None and true is not None:
        return False  # two rational numbers, and not the same
    from reward_fns.answers import numeric  # mpmath is loaded where it is needed

    try:
        if numeric.same_function(answer, truth):
            return True
        # log is the natural logarithm, or else the common one, on both sides.
        common = [with_common_logarithms(each) for each in (answer, truth)]
        return common != [answer, truth] and numeric.same_function(*common)
    except numeric.Undecided:
        return False


def _approximate(expression: Expression) -> Fraction | None:
    from reward_fns.answers.numeric import real_value

    value = real_value(expression)
    try:
        return None if value is None else Fraction(value)
    except (OverflowError, ValueError):
        return None


def _is_long_decimal_of(written: Expression, answer: Fraction, truth: Fraction) -> bool:
    """Whether a number was written with six significant digits or more, and is the truth to these."""
    digits = _decimals(written)
    if digits is None or not truth:
        return False
    last = Fraction(10) ** -digits
    if abs(answer) < last * 10 ** (LONG_DECIMAL - 1):
        return False
    cut_off = answer * truth > 0 and 0 <= abs(truth) - abs(answer) < last
    return cut_off or abs(answer - truth) <= last / 2


def _decimals(written: Expression) -> int | None:
    """Digits after the point of a decimal, None for anything else."""
    node = written
    while isinstance(node, Operation) and node.name == "negate":
        (node,) = node.arguments
    return node.decimals if isinstance(node, Number) else None


def _is(name: str, expression: Expression) -> bool:
    return _inside(name, expression) is not expression


def _inside(name: str, expression: Expression) -> Expression:
    """What a sign such as percent stands behind, with its sign; the expression itself if there is none."""
    if isinstance(expression, Operation) and expression.name == name:
        return expression.arguments[0]
    if isinstance(expression, Operation) and expression.name == "negate":
        inner = _inside(name, expression.arguments[0])
        if inner is not expression.arguments[0]:
            return Operation("negate", (inner,))
    return expression


def _unnamed(value: Value) -> Value:
    return value.value if isinstance(value, Named) else value


def _units_agree(answer: str, truth: str) -> bool:
    """Whether both are the same, or one is missing. "Square units" are squares of any."""
    if not answer or not truth or answer == truth or {answer, truth} == {"degrees", "radian"}:
        return True
    generic = next((unit for unit in (answer, truth) if unit.startswith("unit^")), None)
    other = truth if generic == answer else answer
    return generic is not None and other.endswith(generic.removeprefix("unit"))


def _sign_of(expression: Expression) -> str:
    """The sign behind a number that is a unit, which an answer may have in another form."""
    return next((name for name in ("degrees", "percent") if _is(name, expression)), "")


def _has_e(value: Value) -> bool:
    """Whether a number has the constant e in it: in such an answer \\text{e} is no word."""
    expression = _unnamed(value)
    return isinstance(expression, Quantity) and Operation("e") in walk(expression.expression)


def _is_ratio(value: Value) -> bool:
    """Whether the value is named as a ratio of two: AB:CD = 3."""
    return isinstance(value, Named) and value.name.count(":") == 1


def _quotient(value: Value) -> Value:
    """A ratio of two as a number."""
    match value:
        case Bracketed(":", (Quantity(above, ""), Quantity(below, ""))):
            return Quantity(Operation("divide", (above, below)))
    return value


def _same_relation(answer: Relation, truth: Relation) -> bool:
    """Whether both hold for the same: their differences of sides are the same but for a factor."""
    if answer.operator != truth.operator:
        return False
    if answer == truth:
        return True
    from reward_fns.answers import numeric

    sides = [Operation("add", (each.left, Operation("negate", (each.right,)))) for each in (answer, truth)]
    try:
        ratio = numeric.constant_ratio(*sides)
    except numeric.Undecided:
        return False
    return ratio != 0 if answer.operator in ("=", "!=") else ratio > 0
