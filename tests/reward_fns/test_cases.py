"""The verifier against labelled answers; the labels were written without knowing the verifier."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
answer_cases: Any = importlib.import_module("answer_cases")
GROUPS = sorted(path.stem for path in answer_cases.CASES.glob("*.jsonl"))


def test_there_are_enough_different_cases_with_both_labels() -> None:
    cases = answer_cases.load_cases()
    assert len(cases) >= 600
    keys = [(c.answer, c.solution, c.truth, json.dumps(c.options, sort_keys=True)) for c in cases]
    assert len(set(keys)) == len(keys)
    assert all((c.answer is None) != (c.solution is None) for c in cases)
    for group in GROUPS:
        assert {c.correct for c in cases if c.group == group} == {True, False}, group


def test_repeated_text_is_written_out() -> None:
    assert answer_cases.expand([{"repeat": "ab", "times": 2}, "c"]) == "ababc"


def test_an_answer_becomes_a_response_and_a_response_stays_as_it_is() -> None:
    answer = answer_cases.Case("g", "c", "\\frac12", None, "0.5", True)
    assert answer.response().endswith("\\boxed{\\frac12}")
    assert answer.response(boxed=False).endswith("\nAnswer: \\frac12")
    assert answer_cases.Case("g", "c", None, "no box", "0.5", False).response() == "no box"


@pytest.mark.parametrize("boxed", [True, False], ids=["box", "line"])
@pytest.mark.parametrize("group", GROUPS)
def test_the_verifier_gives_the_label(group: str, boxed: bool) -> None:
    verify_math = importlib.import_module("reward_fns").verify_math
    wrong = []
    for case in answer_cases.load_cases(groups=[group]):
        # After "Answer:" an answer ends with its line; whole responses need only one run.
        if not boxed and (case.answer is None or "\n" in case.answer):
            continue
        verdict = verify_math(case.response(boxed=boxed), case.truth, **case.options)
        if verdict.correct != case.correct:
            found = ascii(verdict.extracted)[:60]
            wrong.append(
                f"should be {case.correct}: {case.short()} ({verdict.status}, found {found}) {case.note}"
            )
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
