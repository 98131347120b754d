"""Worked solutions of word problems from the formulas that solve them, exact and one operation per line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

MAX_DECIMALS = 4  # a longer decimal is a rounded fraction, which a verifier cannot check exactly


class FormulaError(ValueError):
    """A formula has no worked solution; the text is one of a few reasons, to be counted."""


DIGITS = r"[0-9]{1,15}"  # bounded: nothing in a word problem is longer
UNSIGNED = rf"(?:{DIGITS}(?:\.{DIGITS})?|\.{DIGITS})"
NUMBER = re.compile(rf"-?{UNSIGNED}")
TOKEN = re.compile(rf"\s*({UNSIGNED}|[-+*/()%])")
UNIT = re.compile(r"\(\s*[A-Za-z][A-Za-z /]*\)")  # ASDiv writes units as in "3 (m) * 1000 (mm/m)"
REMAINDER = re.compile(rf"(.+)/\s*({DIGITS})\s*=\s*({DIGITS})\s*r\s*({DIGITS})")  # "40/7=5 r5"
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": Fraction.__add__,
    "-": Fraction.__sub__,
    "*": Fraction.__mul__,
    "/": Fraction.__truediv__,
}
MAX_DEPTH = 50


def format_number(value: Fraction) -> str:
    """The shortest decimal of a number: 3, -0.5, 1.25. Raises FormulaError if it needs more than four decimals."""
    scaled = value * 10**MAX_DECIMALS
    if scaled.denominator != 1:
        raise FormulaError("a result is not a short decimal")
    whole, decimals = divmod(abs(scaled.numerator), 10**MAX_DECIMALS)
    text = f"{whole}.{decimals:0{MAX_DECIMALS}d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def tokenize(expression: str) -> list[str]:
    """Numbers, operators and brackets of an expression. Raises FormulaError at anything else."""
    tokens = []
    position = 0
    expression = expression.strip()
    while position < len(expression):
        match = TOKEN.match(expression, position)
        if match is None:
            raise FormulaError("the formula is not plain arithmetic")
        tokens.append(match[1])
        position = match.end()
    return tokens


class Evaluator:
    """Recursive descent over + - * / ( ) and postfix %, exact, writing down each operation in the order it is done.

    sum := product (('+' | '-') product)*;  product := signed (('*' | '/') signed)*
    signed := '-' signed | atom '%'*;       atom := number | '(' sum ')'
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.steps: list[str] = []

    def evaluate(self) -> Fraction:
        """The value of the whole expression; ``steps`` then holds lines such as ``10 - 4 = 6``."""
        value = self._sum()
        if self._peek():
            raise FormulaError("the formula is not plain arithmetic")
        return value

    def _peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self.position += 1
        return token

    def _apply(self, operator: str, left: Fraction, right: Fraction) -> Fraction:
        if operator == "/" and right == 0:
            raise FormulaError("the formula divides by zero")
        value = OPERATIONS[operator](left, right)
        self.steps.append(f"{format_number(left)} {operator} {format_number(right)} = {format_number(value)}")
        return value

    def _sum(self) -> Fraction:
        return self._left_to_right(("+", "-"), self._product)

    def _product(self) -> Fraction:
        return self._left_to_right(("*", "/"), self._signed)

    def _left_to_right(self, operators: Sequence[str], operand: Callable[[], Fraction]) -> Fraction:
        value = operand()
        while (operator := self._peek()) in operators:
            self.position += 1
            value = self._apply(operator, value, operand())
        return value

    def _signed(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise FormulaError("the formula is not plain arithmetic")
        if self._peek() == "-":
            self.position += 1
            value = -self._signed()
        else:
            value = self._atom()
            while self._peek() == "%":
                self.position += 1
                value = self._apply("/", value, Fraction(100))
        self.depth -= 1
        return value

    def _atom(self) -> Fraction:
        token = self._take()
        if token == "(":
            value = self._sum()
            if self._take() != ")":
                raise FormulaError("the formula is not plain arithmetic")
            return value
        if not NUMBER.fullmatch(token):
            raise FormulaError("the formula is not plain arithmetic")
        return Fraction(token)


def work_out(statement: str) -> tuple[list[str], tuple[Fraction, ...]]:
    """The steps of one statement, and the numbers it yields: one, or quotient and remainder.

    ``(10-4)*3=18`` gives ``10 - 4 = 6``, ``6 * 3 = 18`` and (18,); ``40/7=5 r5`` gives
    ``40 / 7 = 5 remainder 5`` and (5, 5). Raises FormulaError if the stated result is not the true one.
    """
    statement = UNIT.sub("", statement).strip()
    if division := REMAINDER.fullmatch(statement):
        evaluator = Evaluator(tokenize(division[1]))
        dividend = evaluator.evaluate()
        divisor, quotient, remainder = map(Fraction, division.group(2, 3, 4))
        if not 0 <= remainder < divisor or dividend != quotient * divisor + remainder:
            raise FormulaError("the formula's result is wrong")
        line = f"{format_number(dividend)} / {divisor} = {quotient} remainder {remainder}"
        return [*evaluator.steps, line], (quotient, remainder)
    left, equals, right = statement.partition("=")
    if not equals or not NUMBER.fullmatch(right.strip()):
        raise FormulaError("the formula is not plain arithmetic")
    evaluator = Evaluator(tokenize(left))
    value = evaluator.evaluate()
    if value != Fraction(right.strip()):
        raise FormulaError("the formula's result is wrong")
    return evaluator.steps, (value,)


def solution_of(formula: str, answer: str) -> tuple[str, str]:
    """The worked solution of a formula, ending in ``Answer: N``, and N in its shortest form.

    The formula is one statement or several, separated by semicolons. Raises FormulaError if it cannot be parsed,
    contradicts itself, or does not yield the answer.
    """
    if not NUMBER.fullmatch(answer.strip()):
        raise FormulaError("the answer is not a number")
    steps: list[str] = []
    results: tuple[Fraction, ...] = ()
    for statement in formula.strip().rstrip(";").split(";"):
        more_steps, results = work_out(statement)
        steps += more_steps
    if not steps:
        raise FormulaError("the formula has no operation")
    if Fraction(answer.strip()) not in results:
        raise FormulaError("the formula does not yield the answer")
    number = format_number(Fraction(answer.strip()))
    return "\n".join([*steps, f"Answer: {number}"]), number
