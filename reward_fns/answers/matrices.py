"""Matrices, and what is computed of them in an answer: multiples, sums, powers and determinants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from reward_fns.answers.exact import exact_value
from reward_fns.answers.parser import parse
from reward_fns.answers.structure import Tokens, enclosed, matches, split
from reward_fns.answers.tokens import NotReadable, Token
from reward_fns.answers.values import Expression, Matrix, Number, Operation, Quantity, Value, size_of

MAX_ORDER = 4  # of a determinant or a power
MAX_POWER = 10
MAX_CELL = 300  # parts of an expression in a product
TRANSPOSED = ("^T", "^top", "^intercal", "^mathsfT", "^mathrmT", "^mathbfT")

Rows = list[list[Expression]]


def has_matrix(tokens: Tokens) -> bool:
    """Whether a matrix is a part of the tokens."""
    return any(token.text.startswith("begin:") and token.text.endswith("matrix") for token in tokens)


def matrix_value(tokens: Tokens, read: Callable[[Tokens], Value]) -> Value:
    """The value of a sum of multiples of matrices, or of a determinant. Raises NotReadable for anything else.

    read: reads a matrix alone.
    """
    if tokens[0].text == "det":
        inner = read(_unwrapped(tokens[1:]))
        return Quantity(_determinant(_rows(inner)))
    parts, signs = split(tokens, ("+", "-"))
    if not parts[0]:
        parts, signs = parts[1:], signs
    else:
        signs = ["+", *signs]
    terms = [_scaled(_term(part, read), sign) for part, sign in zip(parts, signs, strict=True)]
    return _matrix(reduce(_sum, terms))


def determinant(matrix: Matrix) -> Quantity:
    """The number that vertical bars make of a matrix. Raises NotReadable where it is not square, small and plain."""
    return Quantity(_determinant(_rows(matrix)))


def _unwrapped(tokens: Tokens) -> Tokens:
    around = enclosed(tokens)
    return around[1] if around is not None and around[0] == "(" else tokens


def _term(tokens: list[Token], read: Callable[[Tokens], Value]) -> Rows:
    start = next((n for n, token in enumerate(tokens) if token.text.startswith("begin:")), len(tokens))
    if start == len(tokens):
        raise NotReadable("a number beside a matrix")
    end = matches(tokens)[start] + 1
    rows = _rows(read(tokens[start:end]))
    if tokens[end:]:
        rows = _power(rows, tokens[end:])
    factor = [token for token in tokens[:start] if token.text != "*"]
    if not factor:
        return rows
    scale = parse(factor)
    return [[Operation("multiply", (scale, cell)) for cell in row] for row in rows]


def _power(rows: Rows, tokens: Tokens) -> Rows:
    exponent = "".join(token.text for token in tokens if token.text not in "{}")
    if exponent in TRANSPOSED:
        return [list(column) for column in zip(*rows, strict=True)]
    if exponent[:1] != "^" or not exponent[1:].isdigit() or not 1 <= int(exponent[1:]) <= MAX_POWER:
        raise NotReadable("a matrix and something else")
    _check_square(rows)
    return reduce(_product, [rows] * int(exponent[1:]))


def _rows(value: Value) -> Rows:
    if not isinstance(value, Matrix):
        raise NotReadable("no matrix")
    rows: Rows = []
    for row in value.rows:
        rows.append([])
        for cell in row:
            if not isinstance(cell, Quantity) or cell.unit:
                raise NotReadable("a matrix of something else than expressions")
            rows[-1].append(cell.expression)
    return rows


def _matrix(rows: Rows) -> Matrix:
    return Matrix(tuple(tuple(map(Quantity, row)) for row in rows))


def _scaled(rows: Rows, sign: str) -> Rows:
    return rows if sign == "+" else [[Operation("negate", (cell,)) for cell in row] for row in rows]


def _sum(left: Rows, right: Rows) -> Rows:
    if [len(row) for row in left] != [len(row) for row in right]:
        raise NotReadable("a sum of matrices of different sizes")
    return [
        [Operation("add", pair) for pair in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)
    ]


def _product(left: Rows, right: Rows) -> Rows:
    columns = list(zip(*right, strict=True))
    return [[_dot(row, column) for column in columns] for row in left]


def _dot(row: Sequence[Expression], column: Sequence[Expression]) -> Expression:
    """A cell of a product, as a number if it is one: powers of powers would grow without end."""
    cell = _add_all([Operation("multiply", pair) for pair in zip(row, column, strict=True)])
    if (value := exact_value(cell)) is not None:
        return Number(value)
    if size_of(cell) > MAX_CELL:
        raise NotReadable("a product of matrices that grows too large")
    return cell


def _add_all(terms: Sequence[Expression]) -> Expression:
    return reduce(lambda total, term: Operation("add", (total, term)), terms)


def _check_square(rows: Rows) -> None:
    if len(rows) > MAX_ORDER or any(len(row) != len(rows) for row in rows):
        raise NotReadable("a matrix that is not square, or large")


def _determinant(rows: Rows) -> Expression:
    """By the first row."""
    _check_square(rows)
    if len(rows) == 1:
        return rows[0][0]
    terms: list[Expression] = []
    for column, cell in enumerate(rows[0]):
        rest = [row[:column] + row[column + 1 :] for row in rows[1:]]
        term: Expression = Operation("multiply", (cell, _determinant(rest)))
        terms.append(Operation("negate", (term,)) if column % 2 else term)
    return _add_all(terms)
