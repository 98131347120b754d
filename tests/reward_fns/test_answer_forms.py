"""Forms of answers, kind by kind: what is right in a form, and beside it what is not."""

from __future__ import annotations

import pytest

from reward_fns import verify_math
from reward_fns.answers import Rules, same_answer
from reward_fns.boxes import last_boxed

SAME = [
    # A sign behind a sign.
    ("2 + -3", "-1"),
    ("2 - -3", "5"),
    ("y=2x+-3", "y=2x-3"),
    ("1 + +2", "3"),
    # A truth that names its parts.
    ("(3,4),(6,1)", "a=3,b=4;a=6,b=1"),
    ("(6,1),(3,4)", "a=3,b=4 or a=6,b=1"),
    ("a=6,b=1; b=4,a=3", "a=3,b=4;a=6,b=1"),
    (r"\{(3,4),(6,1)\}", "a=3,b=4;a=6,b=1"),
    ("(2,5)", "t_1=2, t_2=5"),
    ("2, 5", "t_1=2, t_2=5"),
    # Ratios and quotients with a name.
    ("3", "P:Q=3"),
    ("3:1", "P:Q=3"),
    ("5:9", "S_{1}:S_{2}=5:9"),
    ("2.5:4.5", "S_{1}:S_{2}=5:9"),
    (r"\frac59", "S_{1}:S_{2}=5:9"),
    (r"\frac{2\sqrt7}{7}", r"\frac{AB}{CD}=\frac{2}{\sqrt{7}}"),
    (r"AB/CD = \frac{2\sqrt7}{7}", r"\frac{AB}{CD}=\frac{2}{\sqrt{7}}"),
    # Series that are not written out.
    (r"\sum_{k=1}^{n} k x^k", r"\sum_{k=1}^{n} x^k k"),
    (r"\sum_{j=1}^{n} x^j j", r"\sum_{k=1}^{n} k x^k"),
    (
        r"\frac12 \sum_{i=0}^{\infty} \frac{(-1)^i}{2i+1}",
        r"0.5 \sum_{k=0}^{\infty} \frac{(-1)^k}{1+2k}",
    ),
    (r"\prod_{p=1}^{2n} (a+p)", r"\prod_{k=1}^{n+n} (k+a)"),
    (r"\sum_{i=1}^{4} i", "10"),
    (r"\sum_{n=1}^{\infty} \frac{1}{n^2} = \frac{\pi^2}{6}", r"\frac{\pi^2}{6}"),
    # Units and signs.
    (r"2\text{e}^2", "2e^2"),
    (r"\text{e}", "e"),
    ("50 pct", r"50\%"),
    ("50 percentage", r"50\%"),
    ("2,500.75cm²", "2500.75"),
    ("2500.75cm²", r"2500.75 \text{ cm}^2"),
    (r"40 \text{ cm}^2", "40 square units"),
    ("40 square units", "40"),
    ("40^\\circ", "40"),
    # Numbers in words.
    ("twenty-one", "21"),
    ("two hundred five", "205"),
    ("forty thousand", "40000"),
    # A product in an equation of many terms.
    ("x*x + y*y - 2*x*y + 3*x - 7*y + z*z*z = 12", "x^2 + y^2 - 2xy + 3x - 7y + z^3 - 12 = 0"),
    (r"a\cdot a\cdot b + b*b*b*b = c*c - a*b*c + a - b + 1", "a^2b + b^4 = c^2 - abc + a - b + 1"),
]
DIFFERENT = [
    ("2 + -3", "5"),
    ("twenty thirty", "50"),
    ("one twenty", "120"),
    ("-", "0"),
    ("1+-3", "1+3"),
    ("(3,1),(6,4)", "a=3,b=4;a=6,b=1"),
    ("(3,4)", "a=3,b=4;a=6,b=1"),
    ("3,4,6,1", "a=3,b=4;a=6,b=1"),
    ("a=4,b=3;a=1,b=6", "a=3,b=4;a=6,b=1"),
    ("1/3", "P:Q=3"),
    ("9:5", "S_{1}:S_{2}=5:9"),
    (r"\frac59", "5:9:1"),
    (r"\frac{CD}{AB}=\frac{2}{\sqrt{7}}", r"\frac{AB}{CD}=\frac{2}{\sqrt{7}}"),
    (r"\sum_{k=1}^{n} k x^k", r"\sum_{k=0}^{n-1} k x^k"),
    (r"\sum_{k=1}^{n} k x^k", r"\sum_{k=1}^{m} k x^k"),
    (r"\sum_{k=1}^{n} k x^k", r"\sum_{k=1}^{n} k x^{2k}"),
    (r"\sum_{k=1}^{n} k x^k", r"\prod_{k=1}^{n} k x^k"),
    (r"\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} n"),
    (r"\sum_{k=1}^{\infty} \frac{1}{k^2}", r"\frac{\pi^2}{5}"),
    (r"\text{e}", "2"),
    ("5 percentage points", r"5\%"),
    ("40^\\circ", "40 square units"),
    (r"40\%", "40 cm"),
    ("40^\\circ", r"40\%"),
    ("40 cm", "40 square units"),
    ("40 cubic units", "40 square units"),
    ("x*x + y*y*y - 2*x*y = 12", "x^2 + y^2 - 2xy = 12"),
]


@pytest.mark.parametrize(("answer", "truth"), SAME)
def test_the_same_in_another_form(answer: str, truth: str) -> None:
    assert same_answer(answer, truth)


@pytest.mark.parametrize(("answer", "truth"), DIFFERENT)
def test_not_the_same(answer: str, truth: str) -> None:
    assert not same_answer(answer, truth)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"$\boxed{3}\quad\text{and}\quad\boxed{4}$", "3, 4"),
        (r"$\boxed{3}$ and $\boxed{4}$", "3, 4"),
        (r"$\boxed{3}$ for part (a) and $\boxed{4}$ for part (b).", "3, 4"),
        (r"Part (a): $\boxed{3}$; part (b): $\boxed{4}$", "3, 4"),
        (r"(i) $\boxed{3}$, (ii) $\boxed{4}$", "3, 4"),
        (r"$y_1 = \boxed{3}$ and $y_2 = \boxed{4}$", "y_1 = 3, y_2 = 4"),
        (r"$x=\boxed{3}, y=\boxed{4}$", "x = 3, y = 4"),
        (r"\boxed{2}, \boxed{2}, \boxed{3}", "2, 2, 3"),  # a repeated element is an element
        (r"\boxed{2}, \boxed{2}", "2"),
        (r"$2+2=\boxed{4}$ and $4+4=\boxed{8}$", "8"),
        (r"$\boxed{3}$ and then $\boxed{4}$", "4"),
        (r"\boxed{3}, y=\boxed{4}", "4"),
    ],
)
def test_several_boxes(response: str, answer: str) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("0.333333", "1/3", True),
        ("0.666667", "2/3", True),
        ("0.666666", "2/3", True),  # cut off
        ("-0.0014285714", r"-\frac{1}{700}", True),
        ("0.66667", "2/3", False),  # five digits
        ("0.666668", "2/3", False),
        ("0.333333", "-1/3", False),
        ("0.333334", r"\frac13", False),
        ("0.000003", r"\frac{1}{333333}", False),  # one digit
        ("333333/1000000", "1/3", False),
        ("3", "3", True),
    ],
)
def test_long_decimals_are_an_option(answer: str, truth: str, right: bool) -> None:
    assert same_answer(answer, truth, Rules(long_decimals=True)) == right
    assert verify_math(rf"\boxed{{{answer}}}", truth, long_decimals=True).correct == right
    assert same_answer(answer, truth) == (answer == truth)


def test_what_found_the_answer_is_told() -> None:
    assert verify_math(r"\boxed{42}", "42").found_by == "boxed"
    few_shot = "Final Answer: The final answer is 42. I hope it is correct."
    found = verify_math(few_shot, "42", extraction="minerva")
    assert (found.correct, found.found_by) == (True, "minerva")
    assert verify_math("It makes 42\nin all", "42", extraction="lenient").found_by == "last_number"
    assert verify_math("nothing\nat all", "42", extraction="lenient").found_by is None
