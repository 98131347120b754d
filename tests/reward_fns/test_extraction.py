"""Where the final answer stands in a response."""

from __future__ import annotations

import time

import pytest

from reward_fns.extraction import find_answer, last_answer_line, last_answer_or_boxed, last_boxed


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
        (r"\boxed 5", "5"),
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
def test_hashes_count_as_an_answer_line(text: str, answer: str | None) -> None:
    assert last_answer_or_boxed(text, hashes=True) == answer


def test_last_boxed_takes_linear_time() -> None:
    assert last_boxed(r"\boxed{" * 100_000 + "1}") == "1"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{17} is wrong, so \boxed{42}", "42"),
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        (r"$\boxed{1}$, or maybe $\boxed{2}$.", "1, 2"),
        (r"\boxed{1}\boxed{2}\boxed{3}", "1, 2, 3"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{1}" + "\n\n" + r"\boxed{1}", "1"),
        (r"\boxed{1} = \boxed{2}", "2"),
        (r"\boxed{1} \boxed{}", ""),
        (r"\boxed{1}, or 7 \boxed{2}", "2"),
        (r"\boxed{1} or \boxed{2}. No, \boxed{3}", "3"),
        (r"\boxed{1}" + " and so on" * 10 + r"\boxed{2}", "2"),
    ],
)
def test_boxes_with_nothing_but_or_between_them_are_one_answer(text: str, answer: str) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think> nothing", None),
        (r"<think>\boxed{1}", None),
        (r"\boxed{1} <think>\boxed{2}", None),
        (r"<think>a</think><think>\boxed{1}</think>Answer: 2", "2"),
    ],
)
def test_thinking_states_no_answer(response: str, answer: str | None) -> None:
    assert find_answer(response) == answer


@pytest.mark.parametrize(
    ("extraction", "found"),
    [
        ("answer", ["1", None, None, None, "7"]),
        ("boxed", [None, "2", None, None, "7"]),
        ("answer_or_boxed", ["1", "2", None, None, "7"]),
        ("hash_or_answer", ["1", "2", "3", None, "7"]),
        ("whole", ["1", "2", "3", "4", "7"]),
    ],
)
def test_where_an_answer_is_looked_for(extraction: str, found: list[str | None]) -> None:
    responses = ["Answer: 1", r"so \boxed{2}", "#### 3", "4", r"Answer: $\boxed{7}$"]
    assert [find_answer(response, extraction) for response in responses] == found  # type: ignore[arg-type]


def test_a_whole_response_is_an_answer_only_if_it_is_one_line() -> None:
    assert find_answer("4\n5", "whole") is None
    assert find_answer("", "whole") is None


@pytest.mark.parametrize(
    "repeated", [r"\boxed{1} or ", r"\boxed{", "Answer: ", "<think>", "</think>", "#### 3 "]
)
def test_extraction_takes_linear_time(repeated: str) -> None:
    started = time.process_time()
    find_answer(repeated * 50_000, "hash_or_answer")
    assert time.process_time() - started < 5  # well below 1 s; minutes if it were quadratic
