"""From tokens to an expression, by recursive descent. No text is ever evaluated as code.

sum      [sign] product (("+" | "-" | "\\pm" | "\\mp") product)*
product  power (("*" | "/" | nothing) power)*        nothing: 2x, (a)(b), 2\\frac12 (a mixed number)
power    postfix ["^" ([sign] postfix)]
postfix  atom ("!" | "%" | degrees)*
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce

from reward_fns.answers import vocabulary as words
from reward_fns.answers.calculus import approach, differentiation, integrand
from reward_fns.answers.exact import exact_value
from reward_fns.answers.series import replaced, series
from reward_fns.answers.tokens import NotReadable, Token
from reward_fns.answers.values import Expression, Number, Operation, Symbol, size_of, symbols_of

MAX_DEPTH = 40  # of groups within each other
MAX_TOKENS = 600
MAX_SERIES = 300  # terms of a sum or product times the size of each

_FORMS = {"frac", "binom", "sqrt", "overline", "bar", "sum", "prod", "int", "lim"}
_NUMBER_THEORY = {"phi", "psi", "Phi", "Psi"}  # \phi(12) is a value and no product
_OPERATORS = {"dim", "deg", "ker", "rank", "tr", "ord"}  # of things that are no numbers
_CONSTANTS = {"pi": "pi", "infty": "infinity"}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_BARS = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
_SEVERAL = {"min", "max", "gcd", "lcm"}
_ONE_ARGUMENT = words.FUNCTIONS | {"abs", "floor", "ceil", "cbrt"}
_INVERSES = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"}


def parse(tokens: Sequence[Token]) -> Expression:
    """Return the expression that all of ``tokens`` make. Raises NotReadable if they make none."""
    if len(tokens) > MAX_TOKENS:
        raise NotReadable("too many tokens")
    return _Parser(tokens).whole()


class _Parser:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0
        self._bars = 0  # open absolute values

    def whole(self) -> Expression:
        found = self._fraction_or_sum()
        if self._place < len(self._tokens):
            raise NotReadable(f"{self._tokens[self._place].text!r} where an expression had ended")
        return found

    def _peek(self) -> Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _at(self, *symbols: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "symbol" and token.text in symbols

    def _at_command(self, *names: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "command" and token.text in names

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise NotReadable("an expression that breaks off")
        self._place += 1
        return token

    def _expect(self, symbol: str) -> None:
        token = self._take()
        if token.text != symbol or token.kind not in ("symbol", "command"):
            raise NotReadable(f"{token.text!r} where {symbol!r} was expected")

    def _sum(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotReadable("too many groups within each other")
        found = self._signed()
        while self._at("+", "-", "pm", "mp"):
            sign = self._take().text
            found = Operation("add", (found, _with_sign(sign, self._signed_once())))
        self._depth -= 1
        return found

    def _signed_once(self) -> Expression:
        """A product, also with a sign of its own: the -3 of 2 + -3."""
        if self._at("+", "-"):
            return _with_sign(self._take().text, self._product())
        return self._product()

    def _fraction_or_sum(self) -> Expression:
        r"""A sum, or in plain TeX a fraction or binomial of two: {1 \over 2}, {10 \choose 3}."""
        found = self._sum()
        if self._at_command("over", "choose"):
            name = {"over": "divide", "choose": "binomial"}[self._take().text]
            found = Operation(name, (found, self._sum()))
        return found

    def _signed(self) -> Expression:
        if self._at("+", "-", "pm", "mp"):
            return _with_sign(self._take().text, self._product())
        return self._product()

    def _product(self) -> Expression:
        found = self._power()
        while True:
            if self._at("*", "/"):
                name = {"*": "multiply", "/": "divide"}[self._take().text]
                negative = self._at("-")
                if self._at("-", "+"):
                    self._take()
                factor = self._power()
                found = Operation(name, (found, _with_sign("-", factor) if negative else factor))
            elif self._begins_factor():
                found = self._next_factor(found)
            else:
                return found

    def _next_factor(self, before: Expression) -> Expression:
        """A product without a sign, or a mixed number: an integer before a proper fraction that has no brackets."""
        fraction = self._at_command("frac")
        factor = self._power()
        return _mixed(before, factor) if fraction else Operation("multiply", (before, factor))

    def _begins_factor(self) -> bool:
        """Whether what follows is multiplied without a sign. Digits are not: ``3 4`` and ``x2`` mean something else."""
        token = self._peek()
        if token is None:
            return False
        if token.kind == "number":
            before = self._tokens[self._place - 1]
            return before.kind == "symbol" and before.text in (")", "]", "!")
        if token.kind == "letter":
            return True
        if token.kind == "command":
            return token.text not in ("rfloor", "rceil", "circ", "degree") and _is_known(token.text)
        return token.text in ("(", "[", "{") or (token.text == "|" and not self._bars)

    def _power(self) -> Expression:
        base = self._postfix()
        if not self._at("^"):
            return base
        self._take()
        if self._at_command("circ", "degree"):
            self._take()
            return Operation("degrees", (base,))
        if self._at("'"):
            raise NotReadable("a derivative")
        exponent = self._exponent()
        if exponent == Operation("circ"):
            return Operation("degrees", (base,))
        found: Expression = Operation("power", (base, exponent))
        if self._at("!"):
            raise NotReadable("a factorial of a power")
        return found

    def _exponent(self) -> Expression:
        if self._at("{"):
            if self._place + 2 < len(self._tokens) and self._tokens[self._place + 1].text in (
                "circ",
                "degree",
            ):
                self._take(), self._take()
                self._expect("}")
                return Operation("circ")
            return self._group()
        negative = self._at("-")
        if negative:
            self._take()
        found = self._postfix()
        if self._at("^"):  # 2^3^2 is 2^(3^2)
            self._take()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise NotReadable("too many groups within each other")
            found = Operation("power", (found, self._exponent()))
            self._depth -= 1
        return _with_sign("-", found) if negative else found

    def _postfix(self) -> Expression:
        found = self._atom()
        while True:
            if self._at("!"):
                self._take()
                double = self._at("!") and not self._tokens[self._place].spaced
                if double:
                    self._take()
                if self._at("!"):
                    raise NotReadable("three factorials")
                found = Operation("double_factorial" if double else "factorial", (found,))
            elif self._at("%"):
                self._take()
                found = Operation("percent", (found,))
            elif self._at_command("degree"):
                self._take()
                found = Operation("degrees", (found,))
            else:
                return found

    def _group(self) -> Expression:
        opening = self._take().text
        bars, self._bars = self._bars, 0
        found = self._fraction_or_sum()
        self._bars = bars
        self._expect(_CLOSING[opening])
        return found

    def _atom(self) -> Expression:
        token = self._peek()
        if token is None:
            raise NotReadable("an expression that breaks off")
        if token.kind == "number":
            self._take()
            assert token.value is not None
            return Number(token.value, token.decimals)
        if token.kind == "letter":
            return self._letter()
        if token.kind == "command":
            return self._command()
        if token.kind == "symbol" and token.text in ("(", "[", "{"):
            return self._group()
        if token.kind == "symbol" and token.text == "|":
            return self._absolute_value()
        raise NotReadable(f"{token.text!r} where a value was expected")

    def _absolute_value(self) -> Expression:
        self._take()
        self._bars += 1
        found = self._sum()
        self._bars -= 1
        self._expect("|")
        return Operation("abs", (found,))

    def _letter(self) -> Expression:
        name = self._take().text
        indexed = self._index()
        if name in ("e", "i") and not indexed:
            return Operation("e" if name == "e" else "imaginary")
        if self._at("(") and self._is_call(name, indexed):
            return Symbol(name + indexed + self._call())
        return Symbol(name + indexed)

    def _is_call(self, name: str, indexed: str) -> bool:
        """Whether brackets behind a letter hold its argument: W(2), f(x + 1), T(n), y'(0), but not a(b + c)."""
        if name in "fgFG" or indexed.endswith("'"):
            return True
        inside = []
        for token in self._tokens[self._place + 1 :]:
            if token.text == ")":
                break
            inside.append(token)
        if all(token.kind == "number" or token.text in ("-", ",") for token in inside):
            return True
        return (name.isupper() or name in "huy") and all(
            token.kind in ("letter", "number") or token.text == "," for token in inside
        )

    def _call(self) -> str:
        """The argument of a function that is not known, as a part of its name: f'(0) is no product."""
        start, depth = self._place, 0
        while True:
            depth += {"(": 1, ")": -1}.get(self._take().text, 0)
            if depth == 0:
                return "".join(token.text for token in self._tokens[start : self._place])

    def _index(self) -> str:
        """A subscript and primes, as a part of a variable's name."""
        found = ""
        if self._at("_"):
            self._take()
            if self._at("{"):
                self._take()
                parts = []
                while not self._at("}"):
                    parts.append(self._take().text)
                self._take()
                found = "_" + "".join(parts)
            else:
                found = "_" + self._take().text
        while self._at("'"):
            self._take()
            found += "'"
        return found

    def _command(self) -> Expression:
        name = self._take().text
        if name in _CONSTANTS:
            return Operation(_CONSTANTS[name])
        if name in ("zeta", "Gamma") and self._at("("):
            return Operation(name, (self._group(),))
        if name in _NUMBER_THEORY and self._at("("):
            return Symbol(name + self._call())
        if name in _OPERATORS:
            start = self._place
            self._postfix()
            return Symbol(
                name + "".join(token.text for token in self._tokens[start : self._place]).strip("()")
            )
        if name in words.GREEK:
            indexed = self._index()
            called = self._at("(") and self._is_call(name.upper(), indexed)
            return Symbol(name + indexed + (self._call() if called else ""))
        if name == "frac":
            if differentiation(self._tokens, self._place) is not None:
                return self._derivative()
            return Operation("divide", (self._argument(), self._argument()))
        if name == "binom":
            return Operation("binomial", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if name in _BARS:
            closing, function = _BARS[name]
            found = self._sum()
            self._expect(closing)
            return Operation(function, (found,))
        if name in ("sum", "prod"):
            return self._series("add" if name == "sum" else "multiply")
        if name == "int":
            return self._integral()
        if name == "lim":
            return self._limit()
        if name in _SEVERAL:
            return Operation(name, self._arguments())
        if name in ("overline", "bar"):
            argument = self._argument()
            if isinstance(argument, Number):
                raise NotReadable("a line over a number")
            return Operation("conjugate", (argument,))
        if name in _ONE_ARGUMENT:
            return self._function(name)
        raise NotReadable(f"the command {name!r}")

    def _series(self, operation: str) -> Expression:
        """A sum or product over whole numbers: written out, or where its bounds are no numbers a series."""
        self._expect("_")
        self._expect("{")
        index = self._letter()
        unbounded = self._at(">=")
        if unbounded:
            self._take()
        else:
            self._expect("=")
        low = self._sum()
        self._expect("}")
        if unbounded:
            high: Expression = Operation("infinity")
        else:
            self._expect("^")
            high = self._exponent()
        body = self._product()
        if not isinstance(index, Symbol) and index != Operation("imaginary"):
            raise NotReadable("a series without an index")
        first, last = exact_value(low), exact_value(high)
        if first is None or last is None:
            return series(operation, body, index, low, high)
        count = last - first + 1
        if first.denominator * last.denominator != 1 or count < 1:
            raise NotReadable("a series that is empty")
        if count * size_of(body) > MAX_SERIES:
            return series(operation, body, index, low, high)
        terms = [replaced(body, index, Number(first + n)) for n in range(int(count))]
        return reduce(lambda total, term: Operation(operation, (total, term)), terms)

    def _integral(self) -> Expression:
        bounds: dict[str, Expression] = {}
        while self._at("_", "^"):
            sign = self._take().text
            bounds[sign] = self._argument() if sign == "_" else self._exponent()
        if len(bounds) < 2:
            raise NotReadable("an integral without bounds")
        body, variable, self._place = integrand(self._tokens, self._place)
        inner = parse(body) if body else Number(Fraction(1))
        return series("integral", inner, variable, bounds["_"], bounds["^"])

    def _limit(self) -> Expression:
        variable, target, side, self._place = approach(self._tokens, self._place)
        return series(f"limit{side}", self._product(), variable, parse(target))

    def _derivative(self) -> Expression:
        r"""What \frac{d}{dx} says of the product behind it, if that is a function of x alone."""
        found = differentiation(self._tokens, self._place)
        assert found is not None
        self._place = found.end
        body = self._product()
        # The running variable of a series is bound; its name begins with "#".
        free = {name for name in symbols_of(body) if not name.startswith("#")}
        if not found.partial and free != {found.variable.name}:
            raise NotReadable("a derivative of what may depend on the variable or not")
        for _ in range(found.order):
            body = series("derivative", body, found.variable, found.variable)
        return body

    def _argument(self) -> Expression:
        r"""What follows \frac: a group, or the next token, of which a number lends its first digit (\frac12)."""
        token = self._peek()
        if token is None:
            raise NotReadable("an expression that breaks off")
        if token.kind == "number" and token.text.isdigit():
            digit, rest = token.text[0], token.text[1:]
            if rest:
                tokens = list(self._tokens)
                tokens[self._place] = Token("number", rest, False, Fraction(int(rest)))
                self._tokens = tokens
            else:
                self._take()
            return Number(Fraction(int(digit)))
        if token.kind == "symbol" and token.text == "{":
            return self._group()
        return self._atom()

    def _arguments(self) -> tuple[Expression, ...]:
        closing = {"(": ")", r"\{": r"\}"}.get(self._take().text)
        if closing is None:
            raise NotReadable("a function of several values without brackets")
        found = [self._sum()]
        while self._at(","):
            self._take()
            found.append(self._sum())
        self._expect(closing)
        return tuple(found)

    def _root(self) -> Expression:
        degree: Expression | None = None
        if self._at("["):
            degree = self._group()
        token = self._peek()
        number = token is not None and token.kind == "number"
        radicand = self._atom() if number else self._argument()  # √12 is meant where \\sqrt12 is written
        return Operation("sqrt", (radicand,)) if degree is None else Operation("root", (radicand, degree))

    def _function(self, name: str) -> Expression:
        base: Expression | None = None
        exponent: Expression | None = None
        while self._at("_", "^"):
            if self._take().text == "_":
                base = self._argument()
            else:
                exponent = self._exponent()
        argument = self._function_argument()
        if exponent == _with_sign("-", Number(Fraction(1))) and name in _INVERSES:
            return Operation(f"arc{name}", (argument,))
        found = (
            _logarithm(argument, base) if name == "log" and base is not None else Operation(name, (argument,))
        )
        if base is not None and name != "log":
            raise NotReadable(f"an index of {name}")
        return found if exponent is None else Operation("power", (found, exponent))

    def _function_argument(self) -> Expression:
        """A group, or without one the product that follows, up to the next function: sin 2x cos x."""
        if self._at("(", "["):
            return self._group()
        if self._at("{"):
            found = self._group()
        else:
            sign = self._take().text if self._at("-") else "+"
            found = _with_sign(sign, self._power())
        while self._begins_factor() and not self._at("(", "["):
            if self._at_command(*_ONE_ARGUMENT):
                break
            found = self._next_factor(found)
        return found


def _is_known(command: str) -> bool:
    names = (_CONSTANTS, words.GREEK, _BARS, _SEVERAL, _ONE_ARGUMENT, _FORMS, _OPERATORS)
    return any(command in known for known in names)


def _with_sign(sign: str, value: Expression) -> Expression:
    if sign == "+":
        return value
    return Operation({"-": "negate", "pm": "plus_minus", "mp": "minus_plus"}[sign], (value,))


def _logarithm(argument: Expression, base: Expression) -> Expression:
    return Operation("divide", (Operation("ln", (argument,)), Operation("ln", (base,))))


def _mixed(left: Expression, right: Expression) -> Expression:
    r"""2\frac12 as a number; a product where it is none."""
    if isinstance(left, Number) and left.value.denominator == 1 and left.decimals is None:
        match right:
            case Operation("divide", (Number(above), Number(below))) if 0 < above < below:
                return Number(left.value + above / below)
            case Operation("percent" | "degrees" as sign, (Operation("divide") as fraction,)):
                return Operation(sign, (_mixed(left, fraction),))
    return Operation("multiply", (left, right))
