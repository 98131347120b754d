"""Worked examples: what is read, what is trained, what is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reasoner_rl.config.data import SftDataConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.supervised import SupervisedReport, supervised_samples

MakeTokenizer = Callable[..., Any]
BOS, EOS, USER, ASSISTANT = 0, 1, 3, 5


def w(*numbers: int) -> list[int]:
    return [number + 7 for number in numbers]


def problem(content: str, solution: str | None, answer: str = "w5", row: int = 1) -> Problem:
    return Problem(
        f"set/{row - 1}",
        ({"role": "user", "content": content},),
        answer,
        "source",
        solution=solution,
        row=row,
    )


def config(**options: Any) -> SftDataConfig:
    return SftDataConfig.model_validate({"train": {"path": "a.jsonl"}} | options)


def test_prompt_and_response_with_a_trained_eos(make_tokenizer: MakeTokenizer, chat_template: str) -> None:
    tokenizer = make_tokenizer("<s> $A </s>", chat_template)
    (sample,), report = supervised_samples([problem("w1", "w2 w3")], tokenizer, config())
    assert sample.prompt_ids.tolist() == [BOS, USER, *w(1), ASSISTANT]
    assert sample.response_ids.tolist() == [*w(2, 3), EOS]
    assert sample.loss_mask.tolist() == [True, True, True]
    assert sample.advantages.tolist() == sample.rollout_logprobs.tolist() == [0.0, 0.0, 0.0]
    assert (sample.prompt_ids.dtype, sample.advantages.dtype) == (torch.int64, torch.float32)
    assert report == SupervisedReport(1, 0, 0, 0, 3)


def test_the_template_of_the_response(make_tokenizer: MakeTokenizer) -> None:
    template = "{solution} w0 {answer}"
    (sample,), _ = supervised_samples(
        [problem("w1", "w2")], make_tokenizer(), config(response_template=template)
    )
    assert sample.response_ids.tolist() == [*w(2, 0, 5), EOS]
    assert sample.prompt_ids.tolist() == [BOS, *w(1)]


def test_a_solution_that_contains_a_placeholder_is_left_alone(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    (sample,), _ = supervised_samples(
        [problem("w1", "{answer}")], tokenizer, config(response_template="{solution}")
    )
    assert sample.response_ids.tolist() == [tokenizer.unk_token_id, EOS]


def test_an_answer_alone_needs_no_solution(make_tokenizer: MakeTokenizer) -> None:
    (sample,), _ = supervised_samples(
        [problem("w1", None)], make_tokenizer(), config(response_template="{answer}")
    )
    assert sample.response_ids.tolist() == [*w(5), EOS]


def test_a_missing_solution_names_the_row(make_tokenizer: MakeTokenizer) -> None:
    examples = [problem("w1", "w2"), problem("w1", None, row=7)]
    with pytest.raises(DataError, match=r"problem set/6 \(row 7\) has no solution"):
        supervised_samples(examples, make_tokenizer(), config())


def test_what_is_too_long_is_dropped_and_counted(make_tokenizer: MakeTokenizer) -> None:
    examples = [
        problem("w1", "w2 w3"),  # fits exactly: two words and EOS
        problem("w1", "w2 w3 w4"),
        problem("w1 w1 w1", "w2"),
    ]
    options = {"max_response_tokens": 3, "prompts": {"max_tokens": 3, "overlong": "drop"}}
    samples, report = supervised_samples(examples, make_tokenizer(), config(**options))
    assert [sample.response_ids.tolist() for sample in samples] == [[*w(2, 3), EOS]]
    assert (report.samples, report.dropped_prompts, report.dropped_responses) == (1, 1, 1)
    assert (report.truncated_prompts, report.longest_response) == (0, 4)
    assert str(report).startswith(
        "1 examples, 0 with the prompt cut on the left; dropped 1 with too long a prompt"
    )

    options["prompts"] = {"max_tokens": 3}
    samples, report = supervised_samples(examples, make_tokenizer(), config(**options))
    assert samples[1].prompt_ids.tolist() == w(1, 1, 1)
    assert (report.samples, report.truncated_prompts, report.dropped_prompts) == (2, 1, 0)


def test_nothing_left_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match=r"no example is left of 1: 0 prompts .* 1 responses longer"):
        supervised_samples([problem("w1", "w2")], make_tokenizer(), config(max_response_tokens=1))


def test_a_tokenizer_without_eos_is_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        supervised_samples([problem("w1", "w2")], tokenizer, config())
