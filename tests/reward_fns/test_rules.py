"""The rules of data sets, and their contract."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import reward_fns
from reward_fns import compute_score, countdown, custom_template, math_answer, math_dapo_strict, verify_math
from reward_fns.registry import rule_for


def test_a_verdict_on_a_response() -> None:
    found = verify_math(r"so \boxed{\frac{2}{4}}", "0.5")
    assert (found.correct, found.score, found.status, found.extracted) == (True, 1.0, "correct", "1/2")
    assert 0 < found.seconds < 1
    assert verify_math(r"\boxed{3}", "0.5", wrong_score=-1).score == -1


@pytest.mark.parametrize(
    ("solution", "truth", "status"),
    [
        (r"\boxed{1}", "1", "correct"),
        (r"\boxed{1}", r"$\boxed{1}$", "correct"),
        (r"\boxed{72}", "6*12=72, so\n#### 72", "correct"),
        (r"\boxed{2}", "1", "wrong"),
        (r"\boxed{?!}", "1", "unparsed"),
        ("It is one.\nReally.", "1", "unparsed"),
        (r"\boxed{no}", "yes", "wrong"),
        ("", "1", "unparsed"),
    ],
)
def test_status(solution: str, truth: str, status: str) -> None:
    assert verify_math(solution, truth).status == status


def test_what_the_verifier_itself_fails_at_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> bool:
        raise RuntimeError

    monkeypatch.setattr("reward_fns.verify.compare", fail)
    assert verify_math(r"\boxed{1}", "1").status == "crash"
    assert not verify_math(r"\boxed{1}", "1").correct


def test_the_rule_as_a_reward_function() -> None:
    assert math_answer.compute_score("", "Answer: $042$", "42") == {
        "score": 1.0,
        "acc": True,
        "pred": "42",
        "status": "correct",
        "found_by": "answer_line",
        "reason": "",
    }
    wrong = math_answer.compute_score("", "Answer: 41", "42", {}, correct_score=2, wrong_score=0)
    assert (wrong["score"], wrong["acc"], wrong["pred"]) == (0, False, "41")
    assert math_answer.compute_score("", r"\boxed{42}", "42", extraction="answer")["acc"] is False
    assert math_answer.compute_score("", r"\boxed{50}", r"50\%", bare_percent=True)["acc"] is True
    assert math_answer.compute_score("", r"\boxed{3.1}", "3.14", relative_tolerance=0.1)["acc"] is True
    assert math_answer.compute_score("", r"\boxed{3.1}", "3.14")["acc"] is False
    with pytest.raises(ValueError, match="extraction='box' must be one of answer_or_boxed, answer, boxed"):
        math_answer.compute_score("", "", "", extraction="box")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data_source", "response", "truth", "correct"),
    [
        ("math_dapo", "Answer: 42.0", "42", True),
        ("BytedTsinghua-SIA/DAPO-Math-17k", r"\boxed{42}", "42", True),
        ("math_dapo_strict", "Answer: 42", "42", True),
        ("math_dapo_strict", "Answer: 42.0", "42", False),
        ("math_dapo_strict", r"\boxed{42}", "42", False),
        ("math_dapo_strict_or_boxed", r"\boxed{42}", "42", True),
        ("HuggingFaceH4/aime_2024", "Answer: 042", "42", True),
        ("math-ai/aime25", r"\boxed{042}", "42", True),
        ("lighteval/MATH", r"\boxed{50}", r"50\%", True),
        ("math500", r"\boxed{\frac12}", "0.5", True),
        ("zwhe99/DeepMath-103K", r"\boxed{50}", r"50\%", False),
        ("openai/gsm8k/main", "#### 1,072", "6*12\n#### 1072", True),
        ("openai/gsm8k", "Answer: 1072 eggs", "1072", True),
        ("mawps/addsub", "Answer: 8 apples", "8.0", True),
        ("svamp", "#### 8", "8", True),
        ("arithmetic_mod10", "Answer: 8", "8", True),
        ("arithmetic_mod10", "#### 8", "8", False),
        ("something_else", r"\boxed{7}" + "\nAnswer: 8", "8", True),
        ("", r"Answer: 8, or rather \boxed{7}", "7", True),
    ],
)
def test_the_rule_of_a_data_source(data_source: str, response: str, truth: str, correct: bool) -> None:
    assert compute_score(data_source, response, truth)["acc"] is correct


def test_parameters_reach_the_rule() -> None:
    assert compute_score("unknown", r"\boxed{7}", "7", None, correct_score=3.0)["score"] == 3.0
    assert compute_score("gsm8k", r"\boxed{7}", "7", None, extraction="answer")["acc"] is False


@pytest.mark.parametrize("boxed", [False, True])
def test_the_strict_rule_is_the_published_one(boxed: bool) -> None:
    reference: Any = pytest.importorskip("verl.utils.reward_score.math_dapo")
    cases = [
        json.loads(line)
        for file in sorted((Path(__file__).parent / "cases").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    texts = [(case["answer"], case["truth"]) for case in cases if isinstance(case.get("answer"), str)]
    assert len(texts) > 1000
    form = r"so \boxed{%s}" if boxed else "so\nAnswer: %s"
    for answer, truth in texts:
        solution = form % answer
        found = math_dapo_strict.compute_score("", solution, truth, boxed_fallback=True)
        assert found == reference.compute_score(solution, truth), (solution, truth)


TASK = {"target": 24, "numbers": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ("<answer>1*2*3*4</answer>", "correct"),
        ("<answer>(1+3)*(2+4) = 24</answer>", "correct"),
        (r"\boxed{4 \times 3 \times 2 \div 1}", "correct"),
        ("<think><answer>1*2*3*4</answer></think><answer>1*2*3</answer>", "wrong"),
        ("<answer>4*3*2</answer>", "wrong"),
        ("<answer>1*2*3*4*1</answer>", "wrong"),
        ("<answer>24</answer>", "wrong"),
        ("<answer>4!*1^{23}</answer>", "wrong"),
        ("<answer>1+2+3+4</answer>", "wrong"),
        ("<answer>12*(3-1)+4-4</answer>", "wrong"),
        ("<answer>__import__('os')</answer>", "unparsed"),
        ("24", "unparsed"),
    ],
)
def test_countdown(response: str, status: str) -> None:
    for truth in (TASK, json.dumps(TASK)):
        assert countdown.compute_score("countdown", response, truth)["status"] == status
    assert countdown.compute_score("countdown", response, "24", {"numbers": [1, 2, 3, 4]})["status"] == status


def test_a_countdown_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold 'target' and 'numbers'"):
        countdown.compute_score("countdown", "<answer>1</answer>", "24")


def test_unknown_sources_have_a_rule() -> None:
    assert rule_for("something/else").judge is rule_for("").judge is math_answer.compute_score


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


def test_the_package_imports_the_standard_library_and_mpmath_only() -> None:
    allowed = sys.stdlib_module_names | {"reward_fns", "mpmath"}
    for file in Path(reward_fns.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            adapted = {"math_verify_rule.py": {"math_verify"}, "algebra.py": {"sympy"}}.get(file.name, set())
            assert {name.split(".")[0] for name in names} <= allowed | adapted, file
