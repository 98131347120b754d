"""The rules against hand-made tables."""

from __future__ import annotations

import ast
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

import reward_fns
from reward_fns import (
    answer_or_boxed,
    compute_score,
    custom_template,
    exact_answer,
    gsm8k,
    math_boxed,
    math_dapo,
)
from reward_fns.extraction import (
    last_answer_line,
    last_answer_or_boxed,
    last_answer_or_hash_line,
    last_boxed,
)
from reward_fns.normalisation import normalise, same_answer
from reward_fns.registry import rule_for


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 42", "42"),
        ("so\nAnswer: 42\n", "42"),
        ("ANSWER : 42", "42"),
        ("answer:42", "42"),
        ("Answer:\n42", "42"),
        ("The final answer: $x = 5$ indeed", "$x = 5$ indeed"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("Answer: 1\nno, wait\nAnswer: 3\nThat is it.", "3"),
        ("Answer：42", "42"),
        ("**Answer**: 42", "42"),
        ("42", None),
        ("Answer 42", None),
        ("Answer:", None),
        ("", None),
        ("Answer: 42\n" + "x" * 300, None),
        ("x" * 1000 + "\nAnswer: 42", "42"),
        ("Answer: 42\n" + "x" * 200, "42"),
    ],
)
def test_last_answer_line(text: str, answer: str | None) -> None:
    assert last_answer_line(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{7", None),
        (r"\boxed{7} then \boxed{8", "7"),
        (r"\boxed{a \boxed{8}", "8"),
        (r"} \boxed{3} }", "3"),
        (r"{ \boxed{3}", "3"),
        (r"\boxed{}", ""),
        ("no box", None),
        (r"\boxed 5", None),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, so Answer: 2", "2"),
        (r"Answer: 1, so \boxed{2}", "2"),
        ("Answer: 1\n" + "x" * 300 + r"\boxed{2}", "2"),
        (r"\boxed{2}" + "x" * 1000, "2"),
        (r"Answer: $\boxed{2}$", "2"),
        (r"Answer: 2 \boxed{", r"2 \boxed{"),
        ("2", None),
    ],
)
def test_last_answer_or_boxed_is_whichever_comes_later(text: str, answer: str | None) -> None:
    assert last_answer_or_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### 72", "72"),
        ("####72", "72"),
        ("#### 1\nAnswer: 2", "2"),
        ("Answer: 1\n#### $2", "$2"),
        ("#### Answer: 72", "72"),
        ("#### 72\n#### Check", "72"),
        ("##### 72", None),
        ("#### Step 2", None),
        ("#### 72\n" + "x" * 300, None),
    ],
)
def test_last_answer_or_hash_line(text: str, answer: str | None) -> None:
    assert last_answer_or_hash_line(text) == answer


def test_last_boxed_takes_linear_time() -> None:
    assert last_boxed(r"\boxed{" * 100_000 + "1}") == "1"


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("042", "42"),
        ("42.", "42"),
        ("42.0", "42"),
        ("+42", "42"),
        ("-0", "0"),
        ("-7", "-7"),
        ("\N{MINUS SIGN}7", "-7"),
        ("\N{EN DASH}7", "-7"),
        ("-$7$", "-7"),
        (".50", "0.5"),
        ("1 000", "1000"),
        (r"1\,000\,000.5", "1000000.5"),
        ("1\N{NARROW NO-BREAK SPACE}000", "1000"),
        ("3  4", "3 4"),
        ("1234 567", "1234 567"),
        ("1 1/2", "1 1/2"),
        ("5$3", "5 3"),
        ("1,234", "1234"),
        ("1,234,567.80", "1234567.8"),
        ("1{,}234", "1234"),
        (r"1,\!234", "1234"),
        ("12,34", "12,34"),
        ("$42$", "42"),
        ("$42$.", "42"),
        (r"\(42\)", "42"),
        (r"\[42\]", "42"),
        ("**42**", "42"),
        ("** 42", "42"),
        ("**42**.", "42"),
        ("**42.**", "42"),
        ("`42`.", "42"),
        ("**`42`.**;", "42"),
        (r"\boxed{**42**.}", "42"),
        (r"42\,", "42"),
        ("the answer is **$42$**.", "42"),
        ("$5$ hundred", "5hundred"),
        (r"$2$\pi", r"2\pi"),
        ("$5$x", "5x"),
        (r"$\boxed{42}$", "42"),
        ("The answer is $42$.", "42"),
        (r"\$18", "18"),
        ("$18", "18"),
        ("$5$ or $6$", "5or6"),
        ("$5$ or 6", "5or6"),
        ("x = 5", "5"),
        ("$x = y = 5$", "5"),
        ("x = 1, y = 5", "x=1,y=5"),
        ("x >= 5", "x>=5"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac{\sqrt2}{2}", r"\frac{\sqrt{2}}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("-1/2", r"-\frac{1}{2}"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\sqrt[3]{2}", r"\sqrt[3]{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"1 & 2 \\ 3 & 4 \\[2pt] 5", r"1&2\\3&4\\[2pt]5"),
        (r"1 \\\ 2", r"1\\2"),
        (r"x \leftarrow y", r"x\leftarrowy"),
        (r"5\text{ cm}", "5"),
        (r"5\ \mathrm{cm}^2", "5"),
        (r"5 \text{ m}", "5"),
        ("5m", "5m"),
        ("12 square units", "12"),
        ("3 hours", "3"),
        ("square", "square"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        ("90 degrees", "90"),
        (r"50\%", "50"),
        (r"\text{(A)}", "(A)"),
        (r"\text{\textbf{even}}", "even"),
        ("a circle", "circle"),
        ("a + b", "a+b"),
        (r"2 \text{ and } 3", "2,3"),
        ("2, and 3", "2,3"),
        (r"0.\overline{3}", r"0.\overline{3}"),
        ("", ""),
        ("$", ""),
    ],
)
def test_normalise(answer: str, normal: str) -> None:
    assert normalise(answer) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize("repeated", [r"\( ", r"\[ ", "*", "1 ", "1 000 ", "5 cm ", r"\\ ", ".", "a/"])
def test_normalisation_takes_linear_time(repeated: str) -> None:
    started = time.process_time()
    normalise(repeated * 30_000 + "x")
    assert time.process_time() - started < 2  # 0.1 s; tens of seconds if it were quadratic


def test_an_integer_of_any_length_is_normalised() -> None:
    assert normalise("0" * 5000 + "7" * 5000) == "7" * 5000


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("042", "42", True),
        ("1,000", "1000.0", True),
        (r"\frac12", "1/2", True),
        ("$x=7$", "7", True),
        ("12 cm", r"12\text{ cm}", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        ("1 000", "1,000", True),
        ("1 1/2", "11/2", False),
        ("3 4", "34", False),
        ("12 34", "1234", False),
        ("12", "1,2", False),
        ("4", "42", False),
        ("-5", "5", False),
        ("0.3", r"0.\overline{3}", False),
        ("$", "%", False),
        ("x=1,y=2", "2", False),
    ],
)
def test_same_answer_is_symmetric(left: str, right: str, equal: bool) -> None:
    assert same_answer(left, right) is equal
    assert same_answer(right, left) is equal


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", Fraction(1234)),
        ("12.50", Fraction(25, 2)),
        ("$ 7", Fraction(7)),
        (r"\$7.25", Fraction(29, 4)),
        ("-$7", Fraction(-7)),
        ("3/4", Fraction(3, 4)),
        (".75", Fraction(3, 4)),
        (r"$\frac{3}{4}$", Fraction(3, 4)),
        (r"-\frac34", Fraction(-3, 4)),
        ("7 apples", Fraction(7)),
        ("7 km/h.", Fraction(7)),
        ("7 cm^2", Fraction(7)),
        ("7 cm²", Fraction(7)),
        (r"7\text{ cm}^{2}", Fraction(7)),
        ("7cm", Fraction(7)),
        ("7 m", Fraction(7)),
        ("7 sq. ft.", Fraction(7)),
        ("7 apples a day", Fraction(7)),
        ("7 of Sam's left-over apple(s)", Fraction(7)),
        ("7 seconds", Fraction(7)),
        ("7 times", Fraction(7)),
        ("**7**", Fraction(7)),
        ("**7**.", Fraction(7)),
        ("`7`.", Fraction(7)),
        ("\N{EN DASH}7", Fraction(-7)),
        ("-$7$", Fraction(-7)),
        ("1 000", Fraction(1000)),
        ("50%", Fraction(50)),
        (r"50\%", Fraction(50)),
        (r"50^\circ", Fraction(50)),
        ("2^3", None),
        (r"2\pi", None),
        ("2 pi", None),
        ("2π", None),
        (r"2 \times x", None),
        ("5x", None),
        ("5 x", None),
        ("5xy", None),
        ("5 x^2", None),
        (r"\frac{1}{2x}", None),
        ("9√", None),
        ("3²", None),
        ("3½", None),
        ("5!", None),
        ("5 hundred", None),
        ("$5$ hundred", None),
        ("5 Dozen", None),
        ("5 twenty-fifths", None),
        ("5 plus three", None),
        ("5 apples plus some", None),
        ("5 or more", None),
        ("5 and a half", None),
        ("5 thirds", None),
        ("5 squared", None),
        ("1 1/2", None),
        ("3\N{EN DASH}5", None),
        ("5$3", None),
        ("x = 5", Fraction(5)),
        (r"2\frac{1}{2}", None),
        ("1 2", None),
        ("7 or 8", None),
        ("7 - 8", None),
        ("7 hours and 30 minutes", None),
        ("12,34", None),
        ("3/0", None),
        ("1e999999999", None),
        ("seven", None),
        ("", None),
    ],
)
def test_parse_number(text: str, number: Fraction | None) -> None:
    assert exact_answer.parse_number(text) == number


@pytest.mark.parametrize(
    ("response", "truth", "correct", "prediction"),
    [
        ("Answer: 12.50", "12.5", True, "25/2"),
        ("Answer: 0.75 litres", "3/4", True, "3/4"),
        ("Answer: $1,234", "1234", True, "1234"),
        ("Answer: 5", "6", False, "5"),
        ("Answer: 0.33", "1/3", False, "33/100"),
        ("Answer: yes", "yes", True, "yes"),
        ("Answer: yes", "5", False, "yes"),
        ("It is 5", "5", False, None),
    ],
)
def test_exact_answer(response: str, truth: str, correct: bool, prediction: str | None) -> None:
    verdict = exact_answer.compute_score("gsm8k", response, truth)
    assert verdict == {"score": 1.0 if correct else -1.0, "acc": correct, "pred": prediction}


def test_math_dapo() -> None:
    assert math_dapo.compute_score("", "Answer: 1\nAnswer: $042$", "42") == {
        "score": 1.0,
        "acc": True,
        "pred": "42",
    }
    assert math_dapo.compute_score("", r"\boxed{42}", "42") == {"score": -1.0, "acc": False, "pred": None}
    assert math_dapo.compute_score("", "Answer: 41", "42", correct_score=2, wrong_score=0) == {
        "score": 0,
        "acc": False,
        "pred": "41",
    }


def test_math_boxed() -> None:
    assert math_boxed.compute_score("", r"\boxed{\frac12}", r"\dfrac{1}{2}", {}, correct_score=0.5) == {
        "score": 0.5,
        "acc": True,
        "pred": r"\frac{1}{2}",
    }
    assert math_boxed.compute_score("", r"\boxed{1} \boxed{2}", "1")["acc"] is False
    assert math_boxed.compute_score("", "Answer: 42", "42") == {"score": -1.0, "acc": False, "pred": None}


@pytest.mark.parametrize(
    ("data_source", "rule"),
    [
        ("math_dapo", math_dapo.compute_score),
        ("math_dapo_17k", math_dapo.compute_score),
        ("BytedTsinghua-SIA/DAPO-Math-17k", math_dapo.compute_score),
        ("HuggingFaceH4/aime_2024", math_dapo.compute_score),
        ("AIME2025", math_dapo.compute_score),
        ("math-ai/aime25", math_dapo.compute_score),
        ("lighteval/MATH", answer_or_boxed.compute_score),
        ("math500", answer_or_boxed.compute_score),
        ("zwhe99/DeepMath-103K", answer_or_boxed.compute_score),
        ("amc23", answer_or_boxed.compute_score),
        ("openai/gsm8k", gsm8k.compute_score),
        ("openai/gsm8k/main", gsm8k.compute_score),
        ("math-ai/gsm8k", gsm8k.compute_score),
        ("mawps", exact_answer.compute_score),
        ("mawps/addsub", exact_answer.compute_score),
        ("svamp", exact_answer.compute_score),
        ("asdiv", exact_answer.compute_score),
        ("arithmetic_mod10", exact_answer.compute_score),
        ("something_else", answer_or_boxed.compute_score),
        ("", answer_or_boxed.compute_score),
    ],
)
def test_rule_of_a_data_source(data_source: str, rule: object) -> None:
    assert rule_for(data_source) is rule


def test_compute_score_dispatches() -> None:
    response = r"\boxed{7}" + "\nAnswer: 8 apples"
    assert compute_score("math", response, "7")["acc"] is False  # the later of the two counts
    assert compute_score("math", response, "8apples")["acc"] is True
    assert compute_score("math", r"Answer: 8, or rather \boxed{7}", "7")["acc"] is True
    assert compute_score("math_dapo", response, "7")["acc"] is False
    assert compute_score("gsm8k", response, "8.0")["acc"] is True
    assert compute_score("mawps/addsub", response, "8.0")["acc"] is True
    assert compute_score("unknown", response, "7")["acc"] is False
    assert compute_score("unknown", r"\boxed{7}", "7", None, correct_score=3.0)["score"] == 3.0


def test_gsm8k_reads_hashes_in_responses_and_ground_truths() -> None:
    solution = "She has 6*12=72.\n#### 1,072"
    assert gsm8k.compute_score("gsm8k", solution, "1072") == {"score": 1.0, "acc": True, "pred": "1072"}
    assert gsm8k.compute_score("gsm8k", "Answer: 1072 eggs", solution)["acc"] is True
    assert gsm8k.compute_score("gsm8k", "Answer: 72 eggs", solution)["acc"] is False
    assert gsm8k.compute_score("gsm8k", "It is 1072", solution, wrong_score=0) == {
        "score": 0,
        "acc": False,
        "pred": None,
    }


def test_custom_template_runs_as_it_is() -> None:
    assert custom_template.compute_score("x", "so\n42", "42") == {
        "score": 1.5,
        "acc": True,
        "pred": "42",
        "brief": 1.0,
    }
    assert custom_template.compute_score("x", "so\n41", "42", {}, bonus=1.0) == {
        "score": 0.0,
        "acc": False,
        "pred": "41",
        "brief": 0.0,
    }


def test_the_package_imports_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"reward_fns"}
    for file in Path(reward_fns.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            adapted = {"math_verify"} if file.name == "math_verify_rule.py" else set()
            assert {name.split(".")[0] for name in names} <= allowed | adapted, file
