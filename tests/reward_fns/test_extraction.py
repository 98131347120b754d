"""Where the final answer stands in a response."""

from __future__ import annotations

import time

import pytest

from reward_fns.extraction import (
    find_answer,
    last_boxed,
    locate_answer,
)


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
        ("Answer: 42\n" + "x" * 300, "42"),
        ("Answer: 1 Answer: 2", "2"),
        ("**Answer:**\n42", "42"),
        ("x" * 1000 + "\nAnswer: 42", "42"),
        ("Answer: 42\n" + "x" * 200, "42"),
    ],
)
def test_last_answer_line(text: str, answer: str | None) -> None:
    assert find_answer(text, "answer") == answer


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
        (r"\boxed{7} then \boxed{8", None),
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
        (r"Answer: 2 \boxed{", None),
        (r"\boxed{1 \boxed{", None),
        (r"\boxed{1} and \boxed", None),
        (r"\boxed{1} and \boxed{2 Answer: 3", "3"),
        ("2", None),
    ],
)
def test_last_answer_or_boxed_is_whichever_comes_later(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


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
        ("#### 72\n" + "x" * 390, "72"),
    ],
)
def test_hashes_count_as_an_answer_line(text: str, answer: str | None) -> None:
    assert find_answer(text, "hash_or_answer") == answer


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
    "repeated",
    [r"\boxed{1} or ", r"\boxed{", "Answer: ", "<think>", "</think>", "#### 3 ", "<answer>", "is -1,234"],
)
def test_extraction_takes_linear_time(repeated: str) -> None:
    started = time.process_time()
    find_answer(repeated * 50_000, "hash_or_answer")
    find_answer(repeated * 50_000, "lenient")
    assert time.process_time() - started < 5  # well below 1 s; minutes if it were quadratic


BOX_CUT_OFF = r"It is \boxed{41}. No, I made a slip; it is \boxed{42"
ECHO = 'Answer: 42\n\n(As asked, it stands on a line of its own after "Answer:".)'


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        # What stands last decides, however far from the end.
        ("#### 42\n" + "That is what was asked for. " * 14, "42"),
        (r"\boxed{41}" + "\nAnswer: 42\n" + "x" * 5000, "42"),
        ("Answer: 41\n" + "x" * 5000 + r"\boxed{42}" + "x" * 5000, "42"),
        # The tags that format_reward teaches.
        ("<think>6*2</think><answer>12</answer>", "12"),
        ("<think>6*2</think><answer>Answer: 12</answer>", "12"),
        ("<think>6*2</think><answer>12", "12"),
        ("<think>6*2</think><answer>Answer: 12", "12"),
        ("<think>6*2</think>\n<answer>\n12\n</answer>\n", "12"),
        (r"<think>6*2</think><answer>So it is \boxed{12}.</answer>", "12"),
        (r"<think>6*2</think><answer>11</answer> No: \boxed{12}", "12"),
        (r"\boxed{11} <answer>12</answer>", "12"),
        ("<answer>11</answer><answer>12</answer>", "12"),
        ("<answer>12</answer> It stands in <answer> </answer>, as asked.", "12"),
        (r"<answer>\boxed{1", None),
        ("<think>6*2 <answer>12</answer>", None),
        # The echo of an instruction is no answer.
        (ECHO, "42"),
        ("Answer: 42\nThe last line is of the form Answer: $Answer (without quotes), as asked.", "42"),
        ("Answer: 42\n(Format: “Answer: [your answer]”)", "42"),
        ("Answer: 42\nI wrote `Answer:` as asked.", "42"),
        (r"\boxed{28}" + "\n(The answer is given within \\boxed{}, as requested.)", "28"),
        (r"\boxed{28}. No: \boxed{}", ""),
        # Nor is a reference to one.
        (r"\boxed{42}" + "\nFinal Answer: as boxed above.", "42"),
        (r"\boxed{42}" + "\nAnswer: see the box above", "42"),
        ("Answer: 42\nFinal answer: the value given above.", "42"),
        (r"\boxed{42}" + "\nAnswer: 41, not as boxed above", "41, not as boxed above"),
        # A last box that is cut off takes back what stands before.
        (BOX_CUT_OFF, None),
        (BOX_CUT_OFF + "}", "42"),
        (r"Answer: 41. No, \boxed{42", None),
        (r"\boxed{41} or rather \boxed", None),
        (r"\boxed{4", None),
    ],
)
def test_what_stands_last_decides(response: str, answer: str | None) -> None:
    for extraction in ("hash_or_answer", "whole"):
        assert find_answer(response, extraction) == answer  # type: ignore[arg-type]


@pytest.mark.parametrize("tag", ["think", "thinking"])
def test_a_response_begins_within_the_tag_that_its_prompt_opened(tag: str) -> None:
    cut_off = r"Maybe \boxed{4}? Let me look"
    assert find_answer(cut_off) == "4"
    assert find_answer(cut_off, opened=tag) is None
    assert find_answer(cut_off, "lenient", opened=tag) is None
    assert find_answer(rf"{cut_off}</{tag}> It is \boxed{{5}}", opened=tag) == "5"
    assert find_answer("12</answer>", opened="answer") == "12"


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("Final Answer: The final answer is $42$. I hope it is correct.", ("$42$", "minerva")),
        ("The final answer is 1. I hope it is correct.\nThe final answer is 2", ("2", "minerva")),
        (r"The final answer is $\boxed{\frac12}$. I hope it is correct.", (r"\frac12", "minerva")),
        ("The final answer is: 3.5. I hope it is correct.\n\nProblem: next", ("3.5", "minerva")),
        (r"\boxed{42}", None),
        ("The answer is 42", None),
    ],
)
def test_minerva(response: str, found: tuple[str, str] | None) -> None:
    assert locate_answer(response, "minerva") == found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (r"so \boxed{7} of 9", ("7", "boxed")),
        ("#### 7", ("7", "hash")),
        ("<answer>7</answer>", ("7", "answer_tag")),
        ("The final answer is $7$. I hope it is correct.", ("$7$", "minerva")),
        ("6+1=7. So the answer is 7. There were 3 of them.", ("7", "phrase")),
        ("He has 5 and gets 1,234.5 more\nwhich is all", ("1,234.5", "last_number")),
        ("So it is -3/4\nas was to be shown", ("-3/4", "last_number")),
        ("So the answer is 7.\n\nQuestion: what is 2+2?\nAnswer: 4", ("7", "phrase")),
        ("It is 7\nI think", ("7", "last_number")),
        ("nothing\nat all", None),
    ],
)
def test_lenient(response: str, found: tuple[str, str] | None) -> None:
    assert locate_answer(response, "lenient") == found
