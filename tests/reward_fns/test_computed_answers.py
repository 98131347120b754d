"""Answers that are computed: sums, integrals, limits and derivatives, their deadline, and what remains undecided."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reward_fns import compute_score, math_answer, verify_math
from reward_fns.answers import algebra, compare, reading
from reward_fns.answers.numeric import Undecided
from reward_fns.answers.values import Expression, Quantity

BASEL = r"\sum_{n=1}^{\infty} \frac{1}{n^2}"
SLOW = r"\lim_{n\to\infty}\frac{\sqrt[n]{n!}}{n}"


def expression(text: str) -> Expression:
    value = reading(text)
    assert isinstance(value, Quantity)
    return value.expression


def verdict(answer: str, truth: str, **options: Any) -> tuple[str, str]:
    found = verify_math(rf"\boxed{{{answer}}}", truth, **options)
    assert found.correct == (found.status == "correct")
    return found.status, found.reason


@pytest.mark.parametrize(
    ("answer", "truth", "status"),
    [
        (r"\frac{\pi^2}{6}", BASEL, "correct"),
        (r"\frac{\pi^2}{8}", BASEL, "wrong"),
        (r"\frac14", r"\int_0^1 x^3 dx", "correct"),
        (r"\frac15", r"\int_0^1 x^3 dx", "wrong"),
        (r"\frac{n^2+n}{2}", r"\sum_{k=1}^n k", "correct"),
        ("n^2", r"\sum_{k=1}^n k", "wrong"),
        ("3x^2", r"\frac{d}{dx} x^3", "correct"),
        ("x^2", r"\frac{d}{dx} x^3", "wrong"),
        ("1, 2", r"\int_0^1 2x dx, \lim_{x\to 1} 2x", "correct"),
        ("1, 3", r"\int_0^1 2x dx, \lim_{x\to 1} 2x", "wrong"),
        ("0", r"\int_{-1}^1 \frac{1}{x} dx", "undecided"),
        ("0", r"\lim_{x\to 0} \frac1x", "undecided"),
        ("n a_k", r"\sum_{k=1}^n a_k", "undecided"),  # the index is in the name
        ("0", r"\frac{d}{dx} y", "wrong"),  # y may depend on x: words to us
        ("f", r"\int_0^1 f dx", "undecided"),
        ("x^2", r"\int 2x dx", "undecided"),  # without bounds it is not read
        ("1", r"\int_0^1 9^{9^{9^{9}}} dx", "undecided"),
        (r"\int_0^1 2x dx", "1", "undecided"),  # what the question may have asked for
        (r"\int_0^1 2x dx = 1", "1", "correct"),
    ],
)
def test_what_is_computed_and_what_stays_undecided(answer: str, truth: str, status: str) -> None:
    assert verdict(answer, truth)[0] == status


def test_a_closed_form_is_compared_by_value_and_not_as_it_is_written() -> None:
    assert compare(r"\frac{1}{2}\ln 4", r"\sum_{k=1}^\infty \frac{(-1)^{k+1}}{k}").same


def test_an_undecided_answer_scores_like_a_wrong_one_and_says_why() -> None:
    scored = math_answer.compute_score("", r"\boxed{0}", r"\int_{-1}^1 \frac1x dx", wrong_score=-0.5)
    assert (scored["score"], scored["acc"], scored["status"]) == (-0.5, False, "undecided")
    assert "sympy" in scored["reason"]
    assert verdict("2", BASEL, algebra_seconds=0) == ("undecided", "computer algebra is off")
    assert verdict(BASEL, BASEL, algebra_seconds=0)[0] == "correct"


def test_the_deadline_is_kept_and_another_timer_continues() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGVTALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_VIRTUAL, 600)
    try:
        with pytest.raises(Undecided, match=r"took longer than 0\.2 s"):
            algebra._within(0.2, lambda: all(n == 0 for n in iter(int, 1)))
        remaining, interval = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert (0 < remaining < 600, interval, rung) == (True, 0.0, [])
        signal.raise_signal(signal.SIGVTALRM)
        assert rung == [signal.SIGVTALRM]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_the_deadline_is_said_again_where_it_was_caught() -> None:
    def stubborn() -> None:
        for _ in range(3):
            try:
                while True:
                    pass
            except BaseException:
                continue
        while True:
            pass

    begun = time.monotonic()
    with pytest.raises(Undecided):
        algebra._within(0.1, stubborn)
    assert time.monotonic() - begun < 30  # and not for ever


def test_what_takes_too_long_is_undecided() -> None:
    status, reason = verdict(r"\frac1e", SLOW, algebra_seconds=0.3)
    assert status == "undecided"
    assert "0.3 s" in reason


def test_off_the_main_thread_it_is_undecided() -> None:
    found: list[tuple[str, str]] = []
    thread = threading.Thread(target=lambda: found.append(verdict("7", r"\sum_{n=1}^\infty \frac{7}{2^n}")))
    thread.start()
    thread.join()
    assert found[0][0] == "undecided"
    assert "main thread" in found[0][1]


def test_without_sympy_it_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    status, reason = verdict("9", r"\sum_{n=1}^\infty \frac{9}{2^n}")
    assert (status, "reasoner_rl[algebra]" in reason) == ("undecided", True)


def test_a_value_that_numbers_do_not_confirm_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    two = expression("2")
    monkeypatch.setattr(algebra._Translator, "value", lambda self: two)
    with pytest.raises(Undecided, match="do not confirm"):
        algebra.computed(expression(r"\sum_{n=1}^{\infty} \frac{5}{n^2}"), 5.0)


def test_ordinary_answers_import_no_sympy() -> None:
    program = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from answer_cases import load_cases
from reward_fns import verify_math
cases = [case for case in load_cases() if case.group != "computed" and case.group != "injection_and_bombs"]
for case in cases[::7]:
    verify_math(case.response(), case.truth, **case.options)
assert "mpmath" in sys.modules
print("sympy" in sys.modules)
"""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, str(root), str(root / "scripts" / "bench")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("response", "truth", "right"),
    [
        (r"The length is \boxed{9} and the width is \boxed{4}.", "9,4", True),
        (r"The length is \boxed{9} and the width is \boxed{4}.", "9", False),
        (r"The length is \boxed{9} and the width is \boxed{4}.", "(9,4)", True),
        (r"The length is \boxed{4} and the width is \boxed{9}.", "(9,4)", False),
        (r"$y$ is \boxed{9} and $x$ is \boxed{4}.", "(9,4)", False),
        (r"The length is \boxed{9} and the width is \boxed{4}.", "[9,4]", False),
        (r"so \boxed{3} apples and hence the answer is \boxed{12}", "12", True),
        (r"so \boxed{3} apples and hence the answer is \boxed{12}", "3", False),
        (r"so \boxed{3} apples and hence the answer is \boxed{12}", "3,12", False),
        (r"The length is \boxed{9}. The width is \boxed{4}.", "9,4", False),
        (r"It is $p=\boxed{6}$ and $q=\boxed{-8}$.", "p=-8,q=6", False),
    ],
)
def test_boxes_in_clauses_are_one_answer_where_the_truth_has_as_many_parts(
    response: str, truth: str, right: bool
) -> None:
    assert verify_math(response, truth).correct == right


def test_long_decimals_go_to_the_rules_that_take_them() -> None:
    def status(source: str, response: str, truth: str) -> str:
        return str(compute_score(source, response, truth, long_decimals=True)["status"])

    assert status("aime", "Answer: 0.333333", "1/3") == "correct"
    assert status("gsm8k", "#### 0.333333", "1/3") == "correct"
    assert compute_score("math_dapo_strict", "Answer: 0.333333", "1/3", long_decimals=True)["acc"] is False
    assert compute_score("aime", "Answer: 0.333333", "1/3")["status"] == "wrong"
