"""Word-level tokenizers small enough to check ids by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["<s>", "</s>", "<unk>", "<user>", "<system>", "<assistant>", "\n"] + [f"w{i}" for i in range(20)]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m['role'] }}> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def make_tokenizer() -> Callable[..., Any]:
    """A function (template with $A, chat template) -> tokenizer; word wN has the id N + 7."""

    def make(template: str | None = "<s> $A", chat_template: str | None = None) -> PreTrainedTokenizerFast:
        vocabulary = {word: index for index, word in enumerate(WORDS)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
        )
        tokenizer.decoder = decoders.Fuse()
        if template is not None:
            special = [("<s>", 0), ("</s>", 1)]
            tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        fast.chat_template = chat_template
        return fast

    return make


@pytest.fixture
def chat_template() -> str:
    """A template that writes the BOS itself and refuses the role `tool`."""
    return CHAT
