"""Published ways to ask for an answer, by the names that `data.prompts.template` takes.

A template is given the problem's bare text. Rows of the verl schema carry an instruction around it, so there the text
is looked up beside the prompt, or DAPO's instruction is taken off; a row where neither works is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from reasoner_rl.config.data import DAPO_PROMPT, TemplateName
from reasoner_rl.errors import DataError
from reasoner_rl.prompts.read import Message, Problem

# Keys of extra_info under which published files in the verl schema keep the bare text.
TEXT_KEYS = ("raw_problem", "problem", "question")


@dataclass(frozen=True, slots=True)
class Template:
    """How a problem is put to a model."""

    user: str  # text of the user's message; {problem} is replaced
    system: str | None = None
    chat: bool | Literal["auto"] = True  # as apply_chat_template
    stop: str | None = None  # text after which a response is over, if the template needs one

    def messages(self, text: str) -> tuple[Message, ...]:
        """The messages of a problem, without the system prompt."""
        return ({"role": "user", "content": self.user.replace("{problem}", text)},)


def _minerva() -> str:
    # The four worked examples of arXiv 2206.14858, appendix D, exactly as lm-evaluation-harness 0.4.13 sends them for
    # minerva_math with 4 shots.
    return (resources.files("reasoner_rl") / "prompts" / "minerva_math.txt").read_text(encoding="utf-8")


TEMPLATES: Mapping[TemplateName, Template] = {
    "none": Template("{problem}", chat=False),
    "chat": Template("{problem}"),
    # The system prompt of Qwen2.5-Math's own evaluation (arXiv 2409.12122).
    "qwen-math": Template(
        "{problem}",
        system="Please reason step by step, and put your final answer within \\boxed{}.",
    ),
    "dapo": Template(DAPO_PROMPT, chat="auto"),  # arXiv 2503.14476
    "minerva": Template(_minerva(), chat=False, stop="Problem:"),
}


def bare_text(problem: Problem) -> str:
    """The text of a problem without instructions. Raises DataError where the row does not say it."""
    text = _find_text(problem)
    if text is None:
        raise DataError(
            f"problem {problem.uid} (row {problem.row}): data.prompts.template needs the problem's text without "
            f"instructions, and the row's prompt is no text in DAPO's instruction, nor does its extra_info have "
            f"{', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}: leave the template out, or add one of these keys"
        )
    return text


def inside(instruction: str, text: str) -> str | None:
    """What stands in the place of {problem}, if the text is that instruction; None if it is another."""
    before, after = instruction.split("{problem}")
    return (
        text[len(before) : len(text) - len(after)]
        if text.startswith(before) and text.endswith(after)
        else None
    )


def problem_hash(problem: Problem) -> str:
    """SHA-256 of a problem's text, by which it is known again in other files and under other instructions.

    Of the messages where the text without instructions is not known.
    """
    text = _find_text(problem)
    if text is None:
        text = "\n".join(message["content"] for message in problem.messages)
    return text_hash(text)


def text_hash(text: str) -> str:
    """SHA-256 of a text without the white space around it."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()


def _find_text(problem: Problem) -> str | None:
    if problem.text is not None:
        return problem.text
    for key in TEXT_KEYS:
        text = problem.extra_info.get(key)
        if isinstance(text, str) and text.strip():
            return text
    return inside(DAPO_PROMPT, problem.messages[0]["content"] if len(problem.messages) == 1 else "")
