"""Rewards beside the verdict, against values computed by hand."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from reward_fns import (
    composite,
    custom_template,
    format_reward,
    length_penalty,
    repetition_penalty,
    step_quality,
)

STEP_SCORER = """
def by_length(steps, ground_truth, extra_info):
    return [len(step) / 10 for step in steps]

def too_few(steps, ground_truth, extra_info):
    return [1.0]
"""
RIGHT, WRONG = ("math500", "so it is \\boxed{42}", "42"), ("math500", "so it is \\boxed{41}", "42")


@pytest.fixture
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with step scorers."""
    name = f"step_scorers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(STEP_SCORER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a</think>\n\n<answer>\nb</answer>\n", True),
        ("<think>a < b</think><answer></div></answer>", True),
        ("<think>a</think>so<answer>b</answer>", False),
        ("well<think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer>.", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think><answer>b", False),
        ("</think>a<think><answer>b</answer>", False),
        ("<think>a</think><think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer></answer>", False),
        ("<think> </think><answer>b</answer>", False),
        ("<Think>a</Think><answer>b</answer>", False),
        ("", False),
    ],
)
def test_format(text: str, right: bool) -> None:
    result = format_reward.compute_score("x", text, "b")
    assert result == {"score": float(right), "acc": right}


def test_format_parameters() -> None:
    def score(text: str, **parameters: Any) -> Any:
        return format_reward.compute_score("x", text, "b", right_score=0.5, wrong_score=-0.5, **parameters)[
            "score"
        ]

    assert score("a</think><answer>b</answer>", opened=True) == 0.5
    assert score("<think>a</think><answer>b</answer>", opened=True) == -0.5
    assert score("<think>a</think>The answer is b.", tags=["think"], outside=True) == 0.5
    assert score("<think>a</think>The answer is b.", tags=["think"]) == -0.5
    assert score("x<plan>a</plan>y<work>b</work>z", tags=["plan", "work"], outside=True) == 0.5
    assert score("x<work>b</work>y<plan>a</plan>z", tags=["plan", "work"], outside=True) == -0.5


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (100, 0), (150, 0.25), (300, 1), (999, 1)])
def test_linear_length_penalty(length: int, penalty: float) -> None:
    assert length_penalty.linear_penalty(length, 100, 300) == penalty
    result = length_penalty.compute_score("x", "", "", {"response_tokens": length}, start=100, max_length=300)
    assert result == {"score": -penalty, "length": length}


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5)])
def test_a_penalty_that_falls_nowhere_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"below max_length={end}; it is {start}"):
        length_penalty.linear_penalty(3, start, end)


def test_units_of_length() -> None:
    text = "three short words"
    assert length_penalty.response_length(text, None, "words") == 3
    assert length_penalty.response_length(text, None, "characters") == 17
    assert length_penalty.response_length(text, {"response_tokens": 5}, "tokens") == 5
    with pytest.raises(ValueError, match="holds no 'response_tokens'; choose unit 'words'"):
        length_penalty.response_length(text, None, "tokens")
    with pytest.raises(ValueError, match="must be one of tokens, words, characters; it is 'bytes'"):
        length_penalty.response_length(text, None, "bytes")


@pytest.mark.parametrize(
    ("answer", "length", "score"),
    [
        (RIGHT, 0, 2.0),
        (RIGHT, 50, 1.5),  # the middle of the cosine
        (RIGHT, 25, 1 + (1 + math.sqrt(0.5)) / 2),
        (RIGHT, 100, -10.0),
        (WRONG, 0, -10.0),
        (WRONG, 50, -5.0),
        (WRONG, 75, -10 * (1 - math.sqrt(0.5)) / 2),
        (WRONG, 120, -10.0),
    ],
)
def test_cosine(answer: tuple[str, str, str], length: int, score: float) -> None:
    result = length_penalty.cosine(*answer, {"response_tokens": length}, max_length=100)
    assert result["score"] == pytest.approx(score, abs=1e-12)
    assert (result["acc"], result["length"]) == (answer is RIGHT, length)


def test_cosine_is_monotonic_in_the_right_direction() -> None:
    def scores(answer: tuple[str, str, str]) -> list[float]:
        lengths = range(0, 100, 10)
        return [
            length_penalty.cosine(
                *answer, {"response_tokens": n}, max_length=100, right=(1, 0.5), wrong=(-1, -0.5)
            )["score"]
            for n in lengths
        ]

    assert scores(RIGHT) == sorted(scores(RIGHT), reverse=True)
    assert scores(WRONG) == sorted(scores(WRONG))


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b", 2, 2 / 4),
        ("a b a b a b", 2, 4 / 6),  # once "a b" is there, every word after it repeats
        ("A b a B", 2, 2 / 4),
        ("a a a a", 1, 3 / 4),
        ("a a a a", 3, 3 / 4),  # the last three words, which were there one word before
        ("x a b c y a b c z", 3, 3 / 9),
        ("x a b c y a b c z", 4, 0.0),
        ("a b", 3, 0.0),
        ("", 2, 0.0),
    ],
)
def test_repetition(text: str, n: int, share: float) -> None:
    assert repetition_penalty.compute_score("x", text, "", n=n) == -share


def test_repetition_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1; it is 0"):
        repetition_penalty.repeated_share(["a"], 0)


def test_step_quality(scorers: str) -> None:
    text = "12345\n\n  \n\n1234567\n\n123"
    scorer = f"{scorers}:by_length"
    mean = step_quality.compute_score("x", text, "", scorer=scorer)
    assert mean == {"score": pytest.approx((0.5 + 0.7 + 0.3) / 3), "steps": 3}
    assert step_quality.compute_score("x", text, "", scorer=scorer, aggregate="min")["score"] == 0.3
    lines = step_quality.compute_score("x", "1\n22\n", "", scorer=scorer, separator="\n")
    assert lines == {"score": pytest.approx(0.15), "steps": 2}
    assert step_quality.compute_score("x", " ", "", scorer=scorer) == {"score": 0.0, "steps": 0}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"scorer": "by_length"}, "scorer must read package.module:function; it is 'by_length'"),
        ({"scorer": "SCORERS:too_few"}, "returned 1 numbers for 2 steps"),
        (
            {"scorer": "SCORERS:by_length", "aggregate": "sum"},
            "aggregate must be one of mean, min; it is 'sum'",
        ),
    ],
)
def test_step_quality_says_what_is_wrong(parameters: dict[str, str], said: str, scorers: str) -> None:
    parameters = {name: value.replace("SCORERS", scorers) for name, value in parameters.items()}
    with pytest.raises(ValueError, match=said):
        step_quality.compute_score("x", "a\n\nb", "", **parameters)


def test_composite(scorers: str) -> None:
    text = "123456\n\nso \\boxed{42}"  # steps of 6 and 13 characters: quality 0.95
    parts = {"step_scorer": f"{scorers}:by_length", "start": 100, "max_length": 300}
    result = composite.compute_score("math500", text, "42", {"response_tokens": 200}, **parts)
    assert result["score"] == pytest.approx(1.0 + 0.5 * 0.95 - 0.3 * 0.5)
    assert (result["correctness"], result["length_penalty"]) == (1.0, 0.5)
    assert result["step_quality"] == pytest.approx(0.95)
    assert (result["acc"], result["pred"]) == (True, "42")
    wrong = composite.compute_score(
        "math500", text, "41", {"response_tokens": 400}, **parts, correctness_weight=2.0, step_weight=1.0
    )
    assert wrong["score"] == pytest.approx(0.95 - 0.3)
    assert (wrong["acc"], wrong["correctness"]) == (False, 0.0)


def test_composite_without_a_part_needs_nothing_for_it() -> None:
    result = composite.compute_score(*RIGHT, step_weight=0, length_weight=0)
    assert (result["score"], result["correctness"]) == (1.0, 1.0)
    assert "step_quality" not in result
    assert "length_penalty" not in result
    with pytest.raises(ValueError, match=r"step_scorer=package.module:function, or step_weight=0"):
        composite.compute_score(*RIGHT, length_weight=0)
    with pytest.raises(ValueError, match="composite needs max_length, or length_weight=0"):
        composite.compute_score(*RIGHT, step_weight=0)


def test_the_template_for_batches_says_what_the_other_one_does() -> None:
    answers = ["42", "41", "a\n42"]
    judged = asyncio.run(
        custom_template.compute_scores(["x"] * 3, answers, ["42"] * 3, [{}] * 3, bonus=0.25, at_once=2)
    )
    assert judged == [custom_template.compute_score("x", answer, "42", bonus=0.25) for answer in answers]
