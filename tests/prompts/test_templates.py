"""Templates by name: what the model reads under each, and where the problem's text comes from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reasoner_rl.config.data import DAPO_PROMPT, DatasetConfig, PromptConfig
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import Problem, read_problems
from reasoner_rl.prompts.render import PromptRenderer
from reasoner_rl.prompts.templates import TEMPLATES, bare_text, problem_hash

QWEN = "Please reason step by step, and put your final answer within \\boxed{}."


def problem(content: str, **fields: Any) -> Problem:
    return Problem("set/0", ({"role": "user", "content": content},), "2", "source", **fields)


def verl(content: str, **extra_info: Any) -> Problem:
    return problem(content, extra_info=extra_info)


def test_minerva_is_the_text_of_lm_evaluation_harness() -> None:
    """The hash is of the text made by the functions of lm_eval 0.4.13's tasks/minerva_math/utils.py."""
    text = TEMPLATES["minerva"].user
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "15c3aa788b44fbd9ba6b9ac46e902c24c72ed5bf281a89dbac583d34257993a8"
    )
    assert text.startswith("Problem:\nFind the domain of the expression  $\\frac{\\sqrt{x-2}}")
    assert text.endswith("I hope it is correct.\n\nProblem:\n{problem}\n\nSolution:")
    assert text.count("Final Answer: The final answer is $") == 4


class Recording:
    """Stands in for a tokenizer, and keeps what it is asked to encode."""

    eos_token_id = 0

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template
        self.asked: Any = None

    def apply_chat_template(self, messages: Any, tokenize: bool, **_: Any) -> Any:
        if tokenize:
            self.asked = [(message["role"], message["content"]) for message in messages]
            return [1]
        return repr(messages)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        self.asked = text
        return {"input_ids": [1]}

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def asked(template: str, chat: str | None, of: Problem) -> Any:
    tokenizer = Recording(chat)
    renderer = PromptRenderer(tokenizer, PromptConfig(template=template))  # type: ignore[arg-type]
    renderer.encode(of)
    return tokenizer.asked


def test_what_the_model_reads_under_each_name() -> None:
    bare, wrapped = "What is 1+1?", DAPO_PROMPT.replace("{problem}", "What is 1+1?")
    one = problem("another prompt", text=bare)
    assert asked("none", "a template", one) == bare
    assert asked("chat", "a template", one) == [("user", bare)]
    assert asked("qwen-math", "a template", one) == [("system", QWEN), ("user", bare)]
    assert asked("dapo", "a template", one) == [("user", wrapped)]
    assert asked("dapo", None, one) == wrapped
    few_shot = asked("minerva", "a template", one)
    assert few_shot == TEMPLATES["minerva"].user.replace("{problem}", bare)
    for template in ("chat", "qwen-math"):
        with pytest.raises(ConfigError, match=f"template is '{template}', but the tokenizer has no chat"):
            asked(template, None, one)


def test_where_the_text_without_instructions_comes_from(tmp_path: Path) -> None:
    wrapped = DAPO_PROMPT.replace("{problem}", "x + 1 = 2?")
    assert bare_text(verl(wrapped)) == "x + 1 = 2?"
    assert bare_text(verl("ask: x + 1 = 2?", raw_problem="x + 1 = 2?")) == "x + 1 = 2?"
    assert bare_text(verl("ask: x + 1 = 2?", question="x + 1 = 2?")) == "x + 1 = 2?"
    with pytest.raises(DataError, match=r"problem set/0 \(row 1\): data\.prompts\.template needs"):
        bare_text(verl("x + 1 = 2? Put the answer in a box.", raw_problem=" "))
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"problem": "x + 1 = 2?", "answer": 1}) + "\n")
    (flat,), _ = read_problems(DatasetConfig(path=path, prompt_template="Q: {problem}"))
    assert flat.messages[0]["content"] == "Q: x + 1 = 2?"
    assert bare_text(flat) == "x + 1 = 2?"
    # The same problem is known again, however it is asked; without its text, by the whole prompt.
    assert problem_hash(flat) == problem_hash(verl(wrapped)) == hashlib.sha256(b"x + 1 = 2?").hexdigest()
    assert problem_hash(verl("ask: x + 1 = 2?")) == hashlib.sha256(b"ask: x + 1 = 2?").hexdigest()


def test_one_way_to_ask() -> None:
    for keys in ({"apply_chat_template": False}, {"system": "Be brief."}):
        with pytest.raises(ValidationError, match="has no effect with template 'minerva', which says it"):
            PromptConfig(template="minerva", **keys)
    tree = {
        "run": {"output_dir": "x"},
        "model": {"path": "m"},
        "data": {"prompts": {"template": "none"}},
        "evaluation": {"datasets": [{"path": "a.jsonl"}, {"path": "b.jsonl", "prompt_template": "dapo"}]},
    }
    rule = (
        r"evaluation\.datasets\.1\.prompt_template 'dapo' has no effect with data\.prompts\.template 'none'"
    )
    with pytest.raises(ValidationError, match=rule):
        EvalConfig.model_validate(tree)
