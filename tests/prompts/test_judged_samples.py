"""Judged answers as samples: tokens, what is dropped or kept and told by row, and what is said of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reasoner_rl.config.data import PreferenceDataConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.judged import JudgedExample
from reasoner_rl.prompts.judged_samples import describe, judged_samples

MakeTokenizer = Callable[..., Any]
BOS, EOS, USER, ASSISTANT = 0, 1, 3, 5


def w(*numbers: int) -> list[int]:
    return [number + 7 for number in numbers]


def config(**options: Any) -> PreferenceDataConfig:
    return PreferenceDataConfig.model_validate({"train": {"path": "a.jsonl"}} | options)


def pair(chosen: str, rejected: str, row: int = 1, prompt: str = "w1") -> JudgedExample:
    return JudgedExample(row, ({"role": "user", "content": prompt},), (chosen, rejected), (1.0, 0.0))


def single(answer: str, score: float, row: int = 1) -> JudgedExample:
    return JudgedExample(row, ({"role": "user", "content": "w1"},), (answer,), (score,))


def test_a_pair_is_two_samples_the_better_one_first(
    make_tokenizer: MakeTokenizer, chat_template: str
) -> None:
    tokenizer = make_tokenizer("<s> $A </s>", chat_template)
    [(chosen, rejected)], report = judged_samples([pair("w2 w3", "w4 </s>")], tokenizer, config())
    for sample in (chosen, rejected):
        assert sample.prompt_ids.tolist() == [BOS, USER, *w(1), ASSISTANT]
        assert sample.loss_mask.all()
    assert chosen.response_ids.tolist() == [*w(2, 3), EOS]
    assert rejected.response_ids.tolist() == [*w(4), EOS], (
        "an end of sequence that is there is not written twice"
    )
    assert (chosen.reward, rejected.reward) == (1.0, 0.0)
    assert str(report) == "1 rendered; 0 with the prompt cut on the left"


def test_what_is_unusual_is_told_by_row(make_tokenizer: MakeTokenizer) -> None:
    examples = [
        pair("w2", "w3", row=1),
        pair("w2", "w2 ", row=2),  # the same tokens
        pair("w2 w3", "w2", row=4),  # the rejected answer is the beginning
        pair("w2", "w2 w3", row=5),
        pair("w2 w3 w4", "w5", row=7),  # too long
        pair("w5", "w2 w3 w4", row=8),
        pair("w2", "w3", row=9, prompt="w1 w1 w1"),
        *(pair("w6", "w6", row=row) for row in range(10, 16)),
    ]
    options = {"max_response_tokens": 3, "prompts": {"max_tokens": 3, "overlong": "drop"}}
    samples, report = judged_samples(examples, make_tokenizer(), config(**options))
    assert [example[0].response_ids.tolist()[:-1] for example in samples] == [w(2), w(2, 3), w(2)]
    assert (report.identical, report.prefixes) == ([2, *range(10, 16)], [4, 5])
    assert (report.long_answers, report.long_prompts) == ([7, 8], [9])
    assert str(report) == (
        "3 rendered; 0 with the prompt cut on the left; 1 dropped for too long a prompt (row 9); "
        "2 dropped for too long an answer (rows 7, 8); "
        "7 dropped because both answers are the same (rows 2, 10, 11, 12, 13, ...); "
        "2 with an answer that is the beginning of the other (kept) (rows 4, 5)"
    )
    samples, report = judged_samples(
        examples, make_tokenizer(), config(max_response_tokens=3, prompts={"max_tokens": 3})
    )
    assert (report.truncated_prompts, report.long_prompts) == (1, [])
    assert samples[-1][0].prompt_ids.tolist() == w(1, 1, 1)


def test_nothing_left_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(
        DataError,
        match=r"a\.jsonl: no example is left: 0 rendered; .* 1 dropped because both answers are the same \(row 3\)",
    ):
        judged_samples([pair("w2", "w2", row=3)], make_tokenizer(), config())


def test_a_tokenizer_without_eos_is_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        judged_samples([pair("w2", "w3")], tokenizer, config())


def test_what_is_said_of_the_answers(make_tokenizer: MakeTokenizer) -> None:
    def said(kind: Any, *examples: JudgedExample) -> str:
        return describe(judged_samples(examples, make_tokenizer(), config())[1], kind)

    assert said("pairs", pair("w2 w3", "w4"), pair("w2", "w3")) == (
        "2 chosen: 2.5 tokens on average; 2 rejected: 2.0 tokens on average; the chosen answer is the longer one in "
        "50% of pairs"
    )
    assert said("labels", single("w2", 1.0), single("w2 w3 w4", 0.0), single("w2", 0.0)) == (
        "1 good: 2.0 tokens on average; 2 bad: 3.0 tokens on average"
    )
    assert said("labels", single("w2", 1.0)) == "1 good: 2.0 tokens on average"
    assert said("scores", single("w2", -0.5), single("w2 w3", 2.0)) == (
        "scores from -0.5 to 2, mean 0.75; 2.5 tokens on average"
    )
