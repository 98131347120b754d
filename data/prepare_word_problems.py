"""Make training and evaluation files of arithmetic word problems from ASDiv, MAWPS and SVAMP.

    python data/prepare_word_problems.py --asdiv asdiv.jsonl --mawps mawps.jsonl --svamp svamp.jsonl --out FOLDER

Input rows are JSON lines with `problem` and `answer`, and for ASDiv `formula` ("(10-4)*3=18"). Written are

    asdiv_sft.jsonl      problem, answer, source, solution: the formula worked one operation per line, then the answer
    mawps_train.jsonl    problem, answer, source
    mawps_heldout.jsonl  likewise; none is worded almost like a problem of MAWPS or ASDiv that is trained on
    svamp.jsonl          the rows of SVAMP, unchanged

and a report of what was dropped and why goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from reasoner_rl.datasets.wording import choose_families, families, near_pairs, proper_names, template_of
from reasoner_rl.errors import DataError, UserError

Row = dict[str, str]
MAX_DECIMALS = 4  # a longer decimal is a rounded fraction, which a verifier cannot check exactly


class FormulaError(ValueError):
    """A formula has no worked solution; the text is one of a few reasons, to be counted."""


# --- from a formula to a worked solution ---------------------------------------------------------------------------

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
        value = self._product()
        while (operator := self._peek()) in ("+", "-"):
            self.position += 1
            value = self._apply(operator, value, self._product())
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while (operator := self._peek()) in ("*", "/"):
            self.position += 1
            value = self._apply(operator, value, self._signed())
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
        dividend, (divisor, quotient, remainder) = (
            evaluator.evaluate(),
            map(Fraction, division.group(2, 3, 4)),
        )
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


# --- problems worded alike: reasoner_rl/datasets/wording.py -------------------------------------------------------

PLAIN_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


def count_near(templates: Sequence[str], seen: frozenset[str]) -> int:
    """How many of ``templates`` are in ``seen`` or near one that is."""
    near = set(seen)
    for left, right in near_pairs(sorted(seen.union(templates))):
        if left in seen or right in seen:
            near |= {left, right}
    return sum(template in near for template in templates)


# --- the files -----------------------------------------------------------------------------------------------------


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of a JSON-lines file. Raises DataError naming the row and the column that is missing or not text."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)  # splitlines() would also break at U+2028, which JSON allows within a text
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: is not JSON: {error}") from error
        for column in columns:
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                raise DataError(f"{path}, row {number}: needs the column {column!r} with a text")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def without_duplicates(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows with distinct words and numbers, whatever the case, spacing and punctuation.

    Where the answers of duplicates differ, none is trusted.
    """
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(_plain(row["problem"]), set()).add(row["answer"])
    kept, seen = [], set()
    for row in rows:
        problem = _plain(row["problem"])
        if len(answers[problem]) > 1:
            dropped["answers differ between duplicates"] += 1
        elif problem in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(problem)
            kept.append(row)
    return kept


def _plain(problem: str) -> str:
    """What two copies have in common; the point in 1.5 stays, for 15 is another number."""
    return " ".join(PLAIN_WORD.findall(problem.casefold().replace(",", "")))


def worked_examples(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows of ASDiv with a worked solution; those whose formula gives none are dropped and counted by reason."""
    examples = []
    for row in rows:
        try:
            solution, answer = solution_of(row["formula"], row["answer"])
        except FormulaError as reason:
            dropped[str(reason)] += 1
            continue
        examples.append(
            {
                "problem": row["problem"],
                "answer": answer,
                "source": row.get("source", "asdiv"),
                "solution": solution,
            }
        )
    return examples


def checkable(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Rows whose answer is an exact short decimal; 0.6666666667 stands for a fraction that was rounded."""
    kept = []
    for row in rows:
        if NUMBER.fullmatch(row["answer"]) and len(row["answer"].partition(".")[2]) <= MAX_DECIMALS:
            kept.append(
                {"problem": row["problem"], "answer": row["answer"], "source": row.get("source", "mawps")}
            )
        else:
            dropped["answer is not an exact short decimal"] += 1
    return kept


def split_by_wording(
    rows: Sequence[Row], heldout: int, seed: int, names: frozenset[str], seen_templates: frozenset[str]
) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows, the latter exactly ``heldout`` many; the same seed gives the same split.

    All rows of a family of templates go to one side, and to training if the family has one of ``seen_templates``.
    Raises DataError if there are too few rows that may be held out.
    """
    if heldout < 1:
        raise DataError(f"--heldout {heldout}: must be at least 1")
    templates = [template_of(row["problem"], names) for row in rows]
    family_of = families([*templates, *seen_templates])
    sizes = Counter(family_of[template] for template in templates)
    candidates = sizes.keys() - {family_of[template] for template in seen_templates}
    chosen, missing = choose_families(sizes, candidates, heldout, seed)
    if missing:
        raise DataError(
            f"--heldout {heldout}: only {heldout - missing} problems can be held out without one that is "
            "worded almost like a training problem"
        )
    train: list[Row] = []
    held: list[Row] = []
    for row, template in zip(rows, templates, strict=True):
        (held if family_of[template] in chosen else train).append(row)
    return train, held


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write JSON lines through a temporary file, so that the name never stands for half a file."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    temporary.replace(path)


def _report(name: str, read: int, dropped: Counter[str]) -> None:
    print(f"{name}: {read} rows read, {dropped.total()} dropped")
    for reason, count in dropped.most_common():
        print(f"  {count:5d}  {reason}")


def prepare(asdiv: Path, mawps: Path, svamp: Path, out: Path, heldout: int, seed: int) -> None:
    """Read the three files, write the four, print the report."""
    asdiv_rows = read_rows(asdiv, ["problem", "answer", "formula"])
    mawps_rows = read_rows(mawps, ["problem", "answer"])
    svamp_rows = read_rows(svamp, ["problem", "answer"])

    asdiv_dropped: Counter[str] = Counter()
    examples = worked_examples(without_duplicates(asdiv_rows, asdiv_dropped), asdiv_dropped)
    mawps_dropped: Counter[str] = Counter()
    problems = checkable(without_duplicates(mawps_rows, mawps_dropped), mawps_dropped)

    names = proper_names(row["problem"] for row in [*asdiv_rows, *mawps_rows, *svamp_rows])
    asdiv_templates = frozenset(template_of(row["problem"], names) for row in asdiv_rows)
    train, held = split_by_wording(problems, heldout, seed, names, asdiv_templates)
    trained_templates = asdiv_templates | {template_of(row["problem"], names) for row in train}
    svamp_seen = count_near([template_of(row["problem"], names) for row in svamp_rows], trained_templates)

    out.mkdir(parents=True, exist_ok=True)
    files = {"asdiv_sft": examples, "mawps_train": train, "mawps_heldout": held, "svamp": svamp_rows}
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", rows)
    _report("asdiv", len(asdiv_rows), asdiv_dropped)
    _report("mawps", len(mawps_rows), mawps_dropped)
    print(f"svamp: {len(svamp_rows)} rows read, {svamp_seen} worded almost like asdiv or mawps_train (kept)")
    for name, rows in files.items():
        print(f"{out / name}.jsonl: {len(rows)} rows")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asdiv", type=Path, required=True, help="JSON lines: problem, answer, formula")
    parser.add_argument("--mawps", type=Path, required=True, help="JSON lines: problem, answer")
    parser.add_argument("--svamp", type=Path, required=True, help="JSON lines: problem, answer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the four files")
    parser.add_argument(
        "--heldout", type=int, default=200, help="problems of MAWPS kept for evaluation (default 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which problems are held out (default 0)")
    options = parser.parse_args(arguments)
    try:
        prepare(**vars(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
