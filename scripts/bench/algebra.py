#!/usr/bin/env python3
"""How often labelled cases need the last rung of the comparison, computer algebra, what it costs and what it decides.

Every case in tests/reward_fns/cases is judged by `reward_fns.verify_math`, and what reaches the rung is timed. For
comparison, sympy is also measured as the only rung: ``simplify(answer - truth) == 0``, on objects made of the same
syntax trees, for all cases whose answer and truth are expressions without units. Times are of the CPU.

    python scripts/bench/algebra.py [--every N]     plain sympy takes minutes; N: only every Nth case of it
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from answer_cases import Case, load_cases

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from reward_fns import verify_math
from reward_fns.answers import algebra, equality, reading
from reward_fns.answers.numeric import Undecided
from reward_fns.answers.series import PREFIX, is_series
from reward_fns.answers.values import Expression, Named, Operation, Quantity, symbols_of
from reward_fns.extraction import find_answer


class Objects(algebra._Translator):
    """Any expression as an object of sympy, with its sums, integrals, limits and derivatives."""

    def __init__(self, *expressions: Expression) -> None:
        self._sympy = algebra._sympy()
        names = frozenset().union(*map(symbols_of, expressions))
        self._symbols = {name: self._sympy.Symbol(name, real=True) for name in names}

    def _to(self, expression: Expression) -> Any:
        if not isinstance(expression, Operation) or not is_series(expression):
            return super()._to(expression)
        body, index, *bounds = (self._to(each) for each in expression.arguments)
        kind = expression.name.removeprefix(PREFIX)
        if kind == "derivative":
            return self._sympy.diff(body, index).subs(index, bounds[0])
        if kind.startswith("limit"):
            return self._sympy.limit(body, index, bounds[0])
        made = {"add": self._sympy.Sum, "multiply": self._sympy.Product, "integral": self._sympy.Integral}[
            kind
        ]
        return made(body, (index, *bounds)).doit()


def expression_of(text: str | None) -> Expression | None:
    value = reading(text) if text else None
    value = value.value if isinstance(value, Named) else value
    return value.expression if isinstance(value, Quantity) and not value.unit else None


def plain_sympy(case: Case, seconds: float) -> tuple[str, float] | None:
    """Its verdict (right, wrong, late or error) and the seconds; None where the case is no pair of expressions."""
    answer, truth = expression_of(find_answer(case.response(), "whole")), expression_of(case.truth)
    if answer is None or truth is None:
        return None
    begun = time.process_time()

    def compare() -> bool:
        made = Objects(answer, truth)
        return bool(made._sympy.simplify(made._to(answer) - made._to(truth)) == 0)

    try:
        said = "right" if algebra._within(seconds, compare) else "wrong"
    except Undecided as reason:
        said = "late" if "longer" in str(reason) else "error"
    except Exception:
        said = "error"
    return said, time.process_time() - begun


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    return f"median {statistics.median(seconds):.3f} s, slowest {max(seconds):.2f} s, in all {sum(seconds):.1f} s"


def ladder(cases: Sequence[Case]) -> None:
    """What reaches the rung."""
    reached: list[float] = []
    usual = equality._Judge._timed

    def timed(self: Any, function: Any, *arguments: Any) -> Any:
        begun = time.process_time()
        try:
            return usual(self, function, *arguments)
        finally:
            spent.append(time.process_time() - begun)

    equality._Judge._timed = timed  # type: ignore[method-assign]
    statuses: dict[str, int] = {}
    mistakes = 0
    for case in cases:
        spent: list[float] = []
        found = verify_math(case.response(), case.truth, **case.options)
        mistakes += found.correct != case.correct
        if spent:
            reached.append(sum(spent))
            statuses[found.status] = statuses.get(found.status, 0) + 1
    print(f"the rung: {len(reached)} of {len(cases)} cases reach it; {spread(reached)}")
    print(f"  verdicts there: {statuses}; mistakes on all cases: {mistakes}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="of how many cases plain sympy is given one")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds of CPU time for plain sympy")
    arguments = parser.parse_args()
    cases = load_cases()
    begun = time.process_time()
    algebra._sympy()
    print(f"importing sympy: {time.process_time() - begun:.2f} s")
    ladder(cases)
    compared = [(case, plain_sympy(case, arguments.deadline)) for case in cases[:: arguments.every]]
    said = [(case, *result) for case, result in compared if result is not None]
    print(f"sympy alone: {len(said)} pairs of expressions; {spread([seconds for *_, seconds in said])}")
    counts = {
        "false positives": sum(what == "right" and not case.correct for case, what, _ in said),
        "false negatives": sum(what == "wrong" and case.correct for case, what, _ in said),
        "past the deadline": sum(what == "late" for _, what, _ in said),
        "no verdict otherwise": sum(what == "error" for _, what, _ in said),
    }
    print(f"  {counts}")
    for case, what, _ in said:
        if what == "right" and not case.correct:
            print(f"  called right: {case.short()}")


if __name__ == "__main__":
    main()
