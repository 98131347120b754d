"""From problems to token ids: chat template, tokenisation, longest prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from reasoner_rl.config.data import PromptConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import Message, Problem
from reasoner_rl.prompts.templates import TEMPLATES, bare_text
from reasoner_rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For a tokenizer's calls: it would warn of texts beyond its model_max_length, which are cut, dropped or refused later.
WITHOUT_LENGTH_WARNING: dict[str, Any] = {"verbose": False}
MAX_TOKENS = "data.prompts.max_tokens"


@dataclass(frozen=True, slots=True)
class RenderReport:
    """What became of the problems of one dataset."""

    rendered: int
    truncated: int  # rendered, but cut on the left
    dropped: int
    longest: int  # tokens of the longest prompt before it was cut or dropped
    incomplete: int = 0  # problems with a message, such as a system prompt, that the chat template leaves out

    def __str__(self) -> str:
        parts = [f"{self.rendered:,} prompts rendered", f"longest {self.longest:,} tokens"]
        if self.truncated:
            parts.append(f"{self.truncated:,} cut on the left")
        if self.dropped:
            parts.append(f"{self.dropped:,} too long and dropped")
        if self.incomplete:
            parts.append(f"{self.incomplete:,} with a message that the chat template leaves out")
        return ", ".join(parts)


class PromptRenderer:
    """Renders problems with one tokenizer and its chat template.

    ``incomplete`` counts problems with a message that the chat template leaves out of the prompt. Raises ConfigError if
    a chat template is asked for and there is none, and when it leaves out the recipe's system message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._named = None if config.template is None else TEMPLATES[config.template]
        self._system = config.system if self._named is None else self._named.system
        wanted = config.apply_chat_template if self._named is None else self._named.chat
        has_template = bool(tokenizer.chat_template)
        if wanted is True and not has_template:
            key, other = "apply_chat_template is true", "apply_chat_template to false"
            if config.template is not None:
                key, other = f"template is {config.template!r}", "template to none, dapo or minerva"
            raise ConfigError(
                f"data.prompts.{key}, but the tokenizer has no chat template: set model.chat_template to a file that "
                f"holds one, or {other}"
            )
        self._use_template = has_template and wanted is not False
        self.incomplete = 0
        self._left_out: dict[tuple[str, ...], frozenset[str]] = {}  # roles of messages -> those left out

    def encode(self, problem: Problem) -> list[int]:
        """Return the token ids of the whole prompt, however long. Raises DataError if it cannot be rendered."""
        messages = list(self._messages(problem))
        own = len(messages)
        if self._system is not None and all(message["role"] != "system" for message in messages):
            messages.insert(0, {"role": "system", "content": self._system})
        if self._use_template:
            self._notice_left_out(problem, messages, added=len(messages) > own)
            ids = list(self._apply_template(problem.uid, messages, tokenize=True))
        else:
            ids = self._encode_plain(messages)
        if not ids:
            raise DataError(f"problem {problem.uid}: no token is left for a response to follow")
        return ids

    def _messages(self, problem: Problem) -> Sequence[Message]:
        """The messages of a problem, without the recipe's system prompt."""
        return problem.messages if self._named is None else self._named.messages(bare_text(problem))

    def _notice_left_out(self, problem: Problem, messages: Sequence[Message], *, added: bool) -> None:
        """Count a problem if the template ignores one of its messages, which is tried once for each order of roles."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._left_out:
            self._left_out[roles] = self._roles_left_out(problem.uid, messages)
        if "system" in self._left_out[roles] and added:
            key = "system is set" if self._named is None else f"template is {self._config.template!r}"
            raise ConfigError(
                f"data.prompts.{key}, but the chat template leaves system messages out: put the text into "
                "data.train.prompt_template, or set model.chat_template to a file whose template shows them"
            )
        self.incomplete += bool(self._left_out[roles])

    def _roles_left_out(self, uid: str, messages: Sequence[Message]) -> frozenset[str]:
        """Roles of the messages that can be changed without a change in the prompt."""
        whole, left_out = self._apply_template(uid, messages, tokenize=False), set()
        for place, message in enumerate(messages):
            other = {**message, "content": f"{message['content']} and more"}
            changed = [*messages[:place], other, *messages[place + 1 :]]
            if self._apply_template(uid, changed, tokenize=False) == whole:
                left_out.add(message["role"])
        return frozenset(left_out)

    def fit(self, problem: Problem, ids: Sequence[int]) -> Prompt | None:
        """Make a prompt of what `encode` returned; None if it is too long and to be dropped.

        Raises DataError naming the problem if it is too long and that is an error.
        """
        limit = self._config.max_tokens
        if len(ids) > limit:
            if self._config.overlong == "drop":
                return None
            if self._config.overlong == "error":
                raise DataError(
                    f"problem {problem.uid}: the prompt has {len(ids)} tokens, and {MAX_TOKENS} is {limit}; raise "
                    "it, or set overlong beside it to truncate_left or drop"
                )
            ids = ids[-limit:]
        return Prompt(
            uid=problem.uid,
            token_ids=tuple(ids),
            text=self._decode(ids),
            ground_truth=problem.ground_truth,
            data_source=problem.data_source,
            extra_info=problem.extra_info,
            messages=tuple(self._messages(problem)),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _apply_template(self, uid: str, messages: Sequence[Message], *, tokenize: bool) -> Any:
        """The rendered prompt, as ids or as text."""
        # The template writes the special tokens itself; with the tokenizer's own there would be two BOS.
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=tokenize,
                return_dict=False,
                tokenizer_kwargs=WITHOUT_LENGTH_WARNING,
            )
        except Exception as error:  # a template is a program: it can raise anything
            reason = error if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
            raise DataError(f"problem {uid}: the chat template refuses it: {reason}") from error

    def _encode_plain(self, messages: list[Message]) -> list[int]:
        text = "\n".join(message["content"] for message in messages)
        ids = list(self._tokenizer(text, **WITHOUT_LENGTH_WARNING)["input_ids"])
        bare = list(self._tokenizer(text, add_special_tokens=False, **WITHOUT_LENGTH_WARNING)["input_ids"])
        # Some tokenizers append EOS. A response that follows it would answer a finished text.
        if ids[-1:] == [self._tokenizer.eos_token_id] and ids[len(ids) - len(bare) :] != bare:
            ids.pop()
        return ids


def render_prompts(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: PromptConfig
) -> tuple[list[Prompt], RenderReport]:
    """Render all problems, in order. Raises DataError if no prompt is left."""
    renderer = PromptRenderer(tokenizer, config)
    prompts: list[Prompt] = []
    longest = truncated = 0
    for problem in problems:
        ids = renderer.encode(problem)
        longest = max(longest, len(ids))
        prompt = renderer.fit(problem, ids)
        if prompt is not None:
            prompts.append(prompt)
            truncated += len(ids) > len(prompt.token_ids)
    if not prompts:
        raise DataError(
            f"no prompt is left of {len(problems)}: all are longer than {config.max_tokens} tokens, {MAX_TOKENS} "
            f"(the longest has {longest})"
        )
    dropped = len(problems) - len(prompts)
    return prompts, RenderReport(len(prompts), truncated, dropped, longest, renderer.incomplete)
