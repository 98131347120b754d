"""Rendering: the ids that the model reads, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reasoner_rl.config.data import PromptConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.render import PromptRenderer, RenderReport, render_prompts
from reasoner_rl.prompts.supervised import answer_ids
from reasoner_rl.types import Prompt

MakeTokenizer = Callable[..., Any]
BOS, EOS, USER, SYSTEM, ASSISTANT, NEWLINE = 0, 1, 3, 4, 5, 6


def w(*numbers: int) -> tuple[int, ...]:
    """Ids of the words w0, w1, ..."""
    return tuple(number + 7 for number in numbers)


def problem(*contents: str, uid: str = "set/0", roles: tuple[str, ...] = ("user",)) -> Problem:
    messages = tuple({"role": role, "content": text} for role, text in zip(roles, contents, strict=True))
    return Problem(uid, messages, "42", "source", {"index": 3})


def render(renderer: PromptRenderer, problem: Problem) -> Prompt | None:
    return renderer.fit(problem, renderer.encode(problem))


def test_a_chat_prompt_has_one_bos_and_ends_with_the_generation_prompt(
    make_tokenizer: MakeTokenizer, chat_template: str
) -> None:
    tokenizer = make_tokenizer(chat_template=chat_template)
    prompt = render(PromptRenderer(tokenizer, PromptConfig()), problem("w1 w2"))
    assert prompt is not None
    assert prompt.token_ids == (BOS, USER, *w(1, 2), ASSISTANT)
    assert prompt.text == tokenizer.decode(list(prompt.token_ids))
    assert prompt.text.startswith("<s>")
    assert prompt.text.endswith("<assistant>")
    assert (prompt.uid, prompt.ground_truth, prompt.data_source, prompt.extra_info) == (
        "set/0",
        "42",
        "source",
        {"index": 3},
    )


def test_a_system_message_is_put_before_prompts_that_have_none(
    make_tokenizer: MakeTokenizer, chat_template: str
) -> None:
    renderer = PromptRenderer(make_tokenizer(chat_template=chat_template), PromptConfig(system="w9"))
    assert renderer.encode(problem("w1")) == [BOS, SYSTEM, *w(9), USER, *w(1), ASSISTANT]
    own = problem("w8", "w1", roles=("system", "user"))
    assert renderer.encode(own) == [BOS, SYSTEM, *w(8), USER, *w(1), ASSISTANT]


LAST_ONLY = "<s><user> {{ messages[-1]['content'] }} <assistant>"


def test_a_system_message_that_the_template_leaves_out_is_refused(make_tokenizer: MakeTokenizer) -> None:
    renderer = PromptRenderer(make_tokenizer(chat_template=LAST_ONLY), PromptConfig(system="w9"))
    with pytest.raises(
        ConfigError, match=r"data\.prompts\.system is set, but the chat template leaves system"
    ):
        renderer.encode(problem("w1"))


def test_messages_of_the_data_that_the_template_leaves_out_are_counted(
    make_tokenizer: MakeTokenizer, chat_template: str
) -> None:
    three = ("user", "assistant", "user")
    problems = [
        problem("w1"),
        problem("w8", "w1", roles=("system", "user")),
        problem("w1", "w1", "w1", roles=three),
    ]
    prompts, report = render_prompts(problems, make_tokenizer(chat_template=LAST_ONLY), PromptConfig())
    assert [prompt.token_ids for prompt in prompts] == [(BOS, USER, *w(1), ASSISTANT)] * 3
    assert report.incomplete == 2
    assert str(report).endswith(", 2 with a message that the chat template leaves out")
    _, report = render_prompts(problems, make_tokenizer(chat_template=chat_template), PromptConfig())
    assert report.incomplete == 0


def test_without_a_template_contents_are_joined_by_newlines(make_tokenizer: MakeTokenizer) -> None:
    renderer = PromptRenderer(make_tokenizer(), PromptConfig(system="w9"))
    assert renderer.encode(problem("w1 w2")) == [BOS, *w(9), NEWLINE, *w(1, 2)]


def test_a_template_can_be_left_unused(make_tokenizer: MakeTokenizer, chat_template: str) -> None:
    tokenizer = make_tokenizer(chat_template=chat_template)
    assert PromptRenderer(tokenizer, PromptConfig(apply_chat_template=False)).encode(problem("w1")) == [
        BOS,
        *w(1),
    ]


def test_a_template_that_is_wanted_must_exist(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        PromptRenderer(make_tokenizer(), PromptConfig(apply_chat_template=True))


@pytest.mark.parametrize(
    ("template", "ids"),
    [("<s> $A </s>", [BOS, *w(1)]), ("$A </s>", [*w(1)]), (None, [*w(1)])],
)
def test_an_eos_that_the_tokenizer_appends_does_not_end_the_prompt(
    make_tokenizer: MakeTokenizer, template: str | None, ids: list[int]
) -> None:
    assert PromptRenderer(make_tokenizer(template), PromptConfig()).encode(problem("w1")) == ids


def test_an_eos_in_the_text_itself_stays(make_tokenizer: MakeTokenizer) -> None:
    for template in ("$A", "$A </s>"):
        assert PromptRenderer(make_tokenizer(template), PromptConfig()).encode(problem("w1 </s>")) == [
            *w(1),
            EOS,
        ]


def test_a_long_prompt_loses_its_beginning(make_tokenizer: MakeTokenizer) -> None:
    renderer = PromptRenderer(make_tokenizer(), PromptConfig(max_tokens=3))
    exact, longer = render(renderer, problem("w1 w2")), render(renderer, problem("w1 w2 w3 w4"))
    assert exact is not None
    assert longer is not None
    assert exact.token_ids == (BOS, *w(1, 2))
    assert longer.token_ids == w(2, 3, 4)
    assert longer.text == "w2w3w4"


def test_long_prompts_can_be_dropped_or_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    drop, refuse = (
        PromptRenderer(tokenizer, PromptConfig(max_tokens=2, overlong=overlong))
        for overlong in ("drop", "error")
    )
    assert render(drop, problem("w1 w2")) is None
    with pytest.raises(
        DataError, match=r"problem set/0: the prompt has 3 tokens, and data\.prompts\.max_tokens is 2"
    ):
        render(refuse, problem("w1 w2"))


def test_all_prompts_in_order_with_a_report(make_tokenizer: MakeTokenizer) -> None:
    problems = [problem("w1", uid="a"), problem("w1 w2 w3 w4", uid="b"), problem("w5", uid="c")]
    prompts, report = render_prompts(problems, make_tokenizer(), PromptConfig(max_tokens=3))
    assert [prompt.uid for prompt in prompts] == ["a", "b", "c"]
    assert report == RenderReport(rendered=3, truncated=1, dropped=0, longest=5)
    assert str(report) == "3 prompts rendered, longest 5 tokens, 1 cut on the left"
    prompts, report = render_prompts(problems, make_tokenizer(), PromptConfig(max_tokens=3, overlong="drop"))
    assert [prompt.uid for prompt in prompts] == ["a", "c"]
    assert str(report) == "2 prompts rendered, longest 5 tokens, 1 too long and dropped"


def test_nothing_left_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(
        DataError,
        match=r"no prompt is left of 1: all are longer than 2 tokens, data\.prompts\.max_tokens .* has 3",
    ):
        render_prompts([problem("w1 w2")], make_tokenizer(), PromptConfig(max_tokens=2, overlong="drop"))


def test_what_a_template_refuses_is_named(make_tokenizer: MakeTokenizer, chat_template: str) -> None:
    renderer = PromptRenderer(make_tokenizer(chat_template=chat_template), PromptConfig())
    with pytest.raises(DataError, match="problem set/0: the chat template refuses it: no tools"):
        renderer.encode(problem("w1", roles=("tool",)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError: "),
        ("{% x", "x"),
    ],
)
def test_a_template_may_raise_anything(template: str, reason: str, make_tokenizer: MakeTokenizer) -> None:
    renderer = PromptRenderer(make_tokenizer(chat_template=template), PromptConfig())
    with pytest.raises(DataError, match=f"problem set/0: the chat template refuses it: .*{reason}"):
        renderer.encode(problem("w1"))


def test_a_prompt_without_tokens_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="problem set/0: "):
        PromptRenderer(make_tokenizer(None), PromptConfig()).encode(problem(" "))


def test_the_tokenizer_does_not_warn_of_texts_that_are_longer_than_it_thinks_the_model_reads(
    make_tokenizer: MakeTokenizer, chat_template: str
) -> None:
    for tokenizer in (make_tokenizer(), make_tokenizer(chat_template=chat_template)):
        tokenizer.model_max_length = 2
        render(PromptRenderer(tokenizer, PromptConfig()), problem("w1 w2 w3"))
        assert answer_ids("w1 w2 w3", tokenizer) == [*w(1, 2, 3), EOS]
        assert not tokenizer.deprecation_warnings
        tokenizer("w1 w2 w3")
        assert tokenizer.deprecation_warnings, "by itself it warns, which it notes"
