"""From the text of an answer to a typed value."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from reward_fns.answers import relations
from reward_fns.answers import vocabulary as words
from reward_fns.answers.exact import exact_value
from reward_fns.answers.matrices import TRANSPOSED, determinant, has_matrix, matrix_value
from reward_fns.answers.parser import parse
from reward_fns.answers.regions import ALL, INFINITY, ZERO, complement, intersection, interval, point, union
from reward_fns.answers.structure import (
    Tokens,
    closes,
    enclosed,
    has,
    matches,
    opens,
    split,
    with_sign,
    written,
)
from reward_fns.answers.tokens import MAX_CHARACTERS, NotReadable, Token, tokenize
from reward_fns.answers.units import split_unit
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
    Text,
    Value,
)

MAX_ITEMS = 60
MAX_LEVELS = 40

_MATRICES = {"matrix", "pmatrix", "bmatrix", "smallmatrix", "array", "vmatrix"}
_ALIGNED = {"aligned", "align", "equation", "gathered", "split", "displaymath"}
_ENDINGS = ".,;:*` \n"
_PUNCTUATION = (".", ",", ";", ":")


def reading(text: str) -> Value:
    """What an answer states; a `Text` if it cannot be read. Never raises.

    A ground truth is read once for all the responses of its group.
    """
    if len(text) > MAX_CHARACTERS:  # not to be remembered
        return Text(" ".join(text.split()))
    return _reading(text)


@lru_cache(maxsize=8192)
def _reading(text: str) -> Value:
    text = _without_markup(text)
    try:
        tokens = tokenize(text)
    except NotReadable:
        return Text(" ".join(text.split()))
    return read(tokens)


def is_text(text: str) -> bool:
    """Whether an answer cannot be read as anything but words."""
    return isinstance(reading(text), Text)


def parts_of(text: str) -> int:
    """How many answers a list of them states whose parts have no names of their own; 1 for anything else."""
    value = reading(text)
    if isinstance(value, Named):
        value = value.value
    plain = isinstance(value, Listing) and not any(isinstance(item, Named) for item in value.items)
    return len(value.items) if isinstance(value, Listing) and plain else 1


def canonical(text: str) -> str:
    """A normal form for people and for counting votes: of a rational number its lowest terms, else the tokens."""
    if len(text) > MAX_CHARACTERS:
        return " ".join(text[:400].split())[:200]
    value = reading(text)
    if isinstance(value, Named):
        value = value.value
    number = exact_value(value.expression) if isinstance(value, Quantity) else None
    if number is not None and number.numerator.bit_length() + number.denominator.bit_length() < 1000:
        return str(number)
    try:
        return written(tokenize(_without_markup(text)))
    except NotReadable:
        return " ".join(text.split())[:200]


def _without_markup(text: str) -> str:
    """Without Markdown around it and without the sentence's end behind it. Dots that stand for more remain."""
    text = text.strip().strip("`").strip()
    if text.startswith("**") or text.endswith("*"):
        text = text.lstrip("*").lstrip()
    kept = text.rstrip(_ENDINGS)
    cut = text[len(kept) :]
    if cut.startswith("..."):
        return kept + "..."
    if cut.startswith("*") and kept.endswith("^"):
        return kept + "*"
    if kept.endswith("\\") and not kept.endswith("\\\\"):  # a space such as "\\ " or "\\,"
        return kept[:-1].rstrip(_ENDINGS)
    return kept


def read(tokens: Tokens) -> Value:
    """The value that tokens state; a `Text` if they state none."""
    try:
        return _value(_without_quantifier(_after_prose(_with_unions(tokens))), 0)
    except (NotReadable, RecursionError):
        return Text(written(tokens))


def _with_unions(tokens: Tokens) -> Tokens:
    """The same with a U between brackets as the sign of a union."""
    found = list(tokens)
    for place in range(1, len(found) - 1):
        if found[place].text == "U" and closes(found[place - 1]) and opens(found[place + 1]):
            found[place] = Token("symbol", "cup")
    return found


def _after_prose(tokens: Tokens) -> Tokens:
    """What follows "the answer is"; the same tokens where nothing of the kind stands in front."""
    if len(tokens) > 1 and tokens[0].text.lower() in ("a", "an", "the") and tokens[1].kind == "word":
        tokens = tokens[1:]
    place = 0
    while place < len(tokens) and tokens[place].kind == "word":
        place += 1
    prose = [token.text.lower() for token in tokens[:place]]
    rest = tokens[place:]
    if not rest or not prose or words.UNCERTAIN & set(prose):
        return tokens
    if rest[0].text == ":":
        return rest[1:]
    return rest if prose[-1] in words.LEADING_VERBS else tokens


def _without_quantifier(tokens: Tokens) -> Tokens:
    r"""What stands before "for all x", "for every real number x", \forall n \in \mathbb{N}; whatever else says more."""
    for place in range(1, len(tokens)):
        behind = None
        if tokens[place].text == "forall":
            behind = tokens[place + 1 :]
        elif [token.text.lower() for token in tokens[place : place + 2]] in words.FOR_ALL:
            behind = tokens[place + 2 :]
        if behind is not None:
            kept = tokens[: place - 1] if tokens[place - 1].text == "," else tokens[:place]
            return kept if kept and _only_names_numbers(behind) else tokens
    return tokens


def _only_names_numbers(tokens: Tokens) -> bool:
    """Whether tokens name variables and the kind of number that they are, and say nothing else of them."""
    texts = [token.text.lower() for token in tokens]
    if "positive" in texts and not {"integer", "integers"} & set(texts):
        return False
    letters = [token for token in tokens if token.kind == "letter"]
    rest = [text for text, token in zip(texts, tokens, strict=True) if token.kind != "letter"]
    domain = "mathbb" in texts
    return len(letters) <= 3 + domain and all(
        text in words.KINDS_OF_NUMBERS
        or text in words.GREEK
        or (domain and text in ("mathbb", "{", "}", "in"))
        for text in rest
    )


def _value(tokens: Tokens, level: int) -> Value:
    if level > MAX_LEVELS:
        raise NotReadable("too many levels")
    while tokens and tokens[-1].kind == "symbol" and tokens[-1].text in _PUNCTUATION:
        tokens = tokens[:-1]
    if not tokens:
        raise NotReadable("nothing")
    matches(tokens)  # or it is not to be split at all
    parts, separators = split(tokens, (",", ";", "and", "or"))
    if len(parts) > 1:
        return _listing(parts, separators, level)
    around = enclosed(tokens)
    if around is not None and around[0] == r"\{":
        return _set(around[1], level)
    if has(tokens, "pm", "mp"):
        return _both_signs(tokens, level)
    if around is not None and (found := _bracketed(*around, level)) is not None:
        return found
    if has(tokens, "approx"):
        return relations.approximated(split(tokens, ("approx",))[0], lambda part: _value(part, level + 1))
    parts, operators = split(tokens, relations.OPERATORS)
    if operators:
        return relations.relate(parts, operators, lambda part: _value(part, level + 1))
    if has(tokens, ":"):
        return _ratio(tokens, level)
    if has(tokens, "cup", "setminus", "cap"):
        return _region(tokens, level)
    if (column := _transposed(tokens, level)) is not None:
        return column
    if has_matrix(tokens):
        return matrix_value(tokens, lambda part: _value(part, level + 1))
    return _single(tokens)


def _item(tokens: Tokens, level: int) -> Value:
    """A part of a list: what cannot be read in it does not make the others unreadable."""
    if not tokens:
        raise NotReadable("an empty part")
    try:
        return _value(tokens, level + 1)
    except NotReadable:
        return Text(written(tokens))


def _listing(parts: list[list[Token]], separators: list[str], level: int) -> Value:
    kept = [(part, sign) for part, sign in zip(parts, ["", *separators], strict=True) if part or sign == ","]
    if len(kept) > MAX_ITEMS:
        raise NotReadable("too many parts")
    # "1, 2, and 3" has an empty part before its last word.
    values = [_item(part, level) for part, sign in kept if part]
    if len(values) < len(kept) and "and" not in separators and "or" not in separators:
        raise NotReadable("an empty part")
    if len(values) == 1:
        return values[0]
    values = relations.without_domains(values)
    combined = values[0] if len(values) == 1 else relations.combine(values, separators)
    combined = combined or relations.grouped(values)
    return Listing(_flat(values)) if combined is None else combined


def _flat(values: list[Value]) -> tuple[Value, ...]:
    """The items of lists within a list, as of plus-minus, one by one."""
    found: list[Value] = []
    for value in values:
        found += value.items if isinstance(value, Listing) and value.kind == "list" else [value]
    return tuple(found)


def _set(inner: list[Token], level: int) -> Value:
    if not inner:
        return Listing((), "set")
    for bar in ("|", ":"):
        parts, found = split(inner, (bar,))
        if len(found) == 1 and has(parts[1], *relations.OPERATORS):
            if len(parts[0]) == 1 or has(parts[0], "in"):
                return _value(parts[1], level + 1)
            raise NotReadable("a set that is described")
    parts, _ = split(inner, (",", ";"))
    if len(parts) > MAX_ITEMS:
        raise NotReadable("too many parts")
    return Listing(_flat([_item(part, level) for part in parts]), "set")


def _ratio(tokens: Tokens, level: int) -> Value:
    parts, _ = split(tokens, (":",))
    if not all(parts) or not 1 < len(parts) < MAX_ITEMS:
        raise NotReadable("no ratio")
    if len(parts) < 4 and all(len(part[0].text) == 2 and part[0].text.isdigit() for part in parts[1:]):
        raise NotReadable("a time, which is compared as text")
    values = [parse(part) for part in parts]
    if any(exact_value(value) == 0 for value in values):
        raise NotReadable("a ratio of nothing")
    return Bracketed(":", tuple(map(Quantity, values)), ":")


def _both_signs(tokens: Tokens, level: int) -> Value:
    upper, lower = (_value(with_sign(tokens, upper=sign), level + 1) for sign in (True, False))
    if isinstance(upper, Named) and isinstance(lower, Named):
        return Named(upper.name, Listing((upper.value, lower.value)))
    return Listing((upper, lower))


def _bracketed(opening: str, inner: list[Token], closing: str, level: int) -> Value | None:
    """A tuple, a matrix, or what stands alone in brackets; None if these are a part of an expression."""
    if opening.startswith("begin:"):
        return _matrix(opening.removeprefix("begin:"), inner, level)
    parts, _ = split(inner, (",", ";"))
    if len(parts) > MAX_ITEMS:
        raise NotReadable("too many parts")
    if opening == "{":
        return _value(inner, level + 1)
    if len(parts) > 1:
        left, right = ("(", ")") if opening == "langle" else (opening, closing)
        return Bracketed(left, tuple(_item(part, level) for part in parts), right)
    return None if (opening, closing) not in (("(", ")"), ("[", "]")) else _value(inner, level + 1)


def _matrix(name: str, inner: list[Token], level: int) -> Value:
    if name in _ALIGNED:
        return _value([token for token in inner if token.text != "&"], level + 1)
    if name not in _MATRICES:
        raise NotReadable(f"a {name}")
    rows, _ = split(inner, (r"\\",))
    if rows and not rows[-1]:
        rows = rows[:-1]
    cells = [split(row, ("&",))[0] for row in rows]
    if not cells or len({len(row) for row in cells}) > 1 or sum(map(len, cells)) > MAX_ITEMS:
        raise NotReadable("no matrix")
    matrix = Matrix(tuple(tuple(_item(cell, level) for cell in row) for row in cells))
    return determinant(matrix) if name == "vmatrix" else matrix


def _transposed(tokens: Tokens, level: int) -> Matrix | None:
    """A row in brackets that is transposed, (1, 2, 3)^T, as a column; None for anything else."""
    end = matches(tokens).get(0, -1) + 1
    mark = "".join(token.text for token in tokens[end:] if token.text not in "{}")
    if not 0 < end < len(tokens) or mark not in TRANSPOSED or tokens[0].text not in ("(", "["):
        return None
    row = _bracketed(tokens[0].text, list(tokens[1 : end - 1]), tokens[end - 1].text, level)
    return Matrix(tuple((item,) for item in row.items)) if isinstance(row, Bracketed) else None


def _region(tokens: Tokens, level: int) -> Value:
    """Unions, intersections and differences of sets of real numbers, from the left."""
    parts, operators = split(tokens, ("cup", "setminus", "cap"))
    values = [_value(part, level + 1) for part in parts if part]
    if len(values) != len(parts):
        raise NotReadable("an operator of sets without a set")
    if set(operators) == {"cup"} and all(isinstance(value, Listing) for value in values):
        return Listing(tuple(item for value in values for item in value.items), "set")  # type: ignore[union-attr]
    found: tuple[Interval, ...] | None = intervals_of(values[0])
    for operator, value in zip(operators, values[1:], strict=True):
        other = intervals_of(value)
        if found is None:
            break
        if operator == "cup":
            found = union([*found, *other])
        else:
            outside = other if operator == "cap" else complement(other)
            found = None if outside is None else intersection(found, outside)
    if found is None:
        raise NotReadable("sets with ends that cannot be ordered")
    return Region(found)


def intervals_of(value: Value) -> tuple[Interval, ...]:
    """A value as a set of real numbers. Raises NotReadable if it is none."""
    if isinstance(value, Named):
        return intervals_of(value.value)
    if isinstance(value, Region):
        return value.intervals
    if isinstance(value, Listing):
        return tuple(point(_expression_of(item)) for item in value.items)
    if isinstance(value, Bracketed) and len(value.items) == 2:
        low, high = (_expression_of(item) for item in value.items)
        found = union([interval(low, high, value.left == "[", value.right == "]")])
        if found:  # or it is a point, and not the set of nothing
            return found
    raise NotReadable("no set of numbers")


def _expression_of(value: Value) -> Expression:
    if isinstance(value, Quantity) and not value.unit:
        return value.expression
    raise NotReadable("no plain expression")


def _single(tokens: Tokens) -> Value:
    """A value without structure."""
    if written(tokens) in words.EMPTY_SET:
        return Listing((), "set")
    if written(tokens) in words.ALL_REALS:
        return Region((ALL,))
    if written(tokens) in words.HALF_LINES:
        return Region((interval(ZERO, INFINITY, words.HALF_LINES[written(tokens)], False),))
    if (numeral := _numeral(tokens)) is not None:
        return numeral
    if len(tokens) == 1 and tokens[0].text.lower() in words.NUMBER_WORDS:
        return Quantity(Number(Fraction(words.NUMBER_WORDS[tokens[0].text.lower()])))
    if (number := _in_words(tokens)) is not None:
        return Quantity(Number(Fraction(number)))
    if tokens[0].kind == "word" or all(token.kind in ("word", "symbol") for token in tokens):
        return Text(written(tokens))
    rest, factor, unit = split_unit(tokens)
    expression = parse(rest)
    if factor != 1:
        expression = Operation("multiply", (expression, Number(factor)))
    return Quantity(expression, unit)


def _in_words(tokens: Tokens) -> int | None:
    """A number below a million in words: thirty, twenty-one, two hundred five, forty thousand; None for other words."""
    total = part = 0
    before = 1000  # what the next word must be below
    if tokens[0].text == "-" or tokens[-1].text == "-":
        return None
    for word in [token.text.lower() for token in tokens if token.text != "-"]:
        multiple = words.MULTIPLES.get(word, 0)
        number = words.TENS.get(word, words.NUMBER_WORDS.get(word, 0))
        if multiple == 100 and 0 < part < 10:
            part, before = part * 100, 100
        elif multiple == 1000 and part > 0 and not total:
            total, part, before = part * 1000, 0, 1000
        elif 0 < number < before:
            part, before = part + number, (10 if number >= 20 and number % 10 == 0 else 1)
        else:
            return None
    return total + part or None


def _numeral(tokens: Tokens) -> Numeral | Quantity | None:
    """A number in a base, as 204_5, (204)_5, 1A_{16} or 204 (base 5)."""
    place = next((n for n, token in enumerate(tokens) if token.text == "_"), len(tokens))
    digits, base = list(tokens[:place]), [token for token in tokens[place + 1 :] if token.text not in "{()}"]
    if place == len(tokens):
        place = next((n for n, token in enumerate(tokens) if token.text.lower() == "base"), place)
        digits, base = list(tokens[:place]), [token for token in tokens[place + 1 :] if token.text != ")"]
        if digits and digits[-1].text == "(":
            digits = digits[:-1]
    if digits and digits[0].text == "(" and digits[-1].text == ")":
        digits = digits[1:-1]
    text = "".join(token.text for token in digits).upper()
    if len(base) != 1 or not text.isalnum() or not text.isascii() or not text[0].isdigit():
        return None
    name = base[0].text.lower()
    number = int(name) if name.isdigit() and len(name) < 3 else words.NUMBER_WORDS.get(name, 0)
    if not 2 <= number <= 36 or any(int(digit, 36) >= number for digit in text):
        return None
    return Numeral(text.lstrip("0") or "0", number) if number != 10 else Quantity(Number(Fraction(int(text))))
