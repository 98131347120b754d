"""What a pairwise reward model reads: a prompt with two answers; and the label by which it names the better one.

The form is that of preference models that are language models (arXiv 2405.07863), which predict the label as the next
token; the probability to win is that of one label, of the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from reasoner_rl.config.data import PromptConfig
from reasoner_rl.config.reward_model import ComparisonConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.render import PromptRenderer
from reasoner_rl.prompts.supervised import example_of
from reasoner_rl.types import TrainSample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PARTS = re.compile(r"\{prompt\}|\{first\}|\{second\}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to a prompt, as text."""

    prompt: str
    first: str
    second: str

    @property
    def swapped(self) -> Comparison:
        """The same with the answers in the other order."""
        return Comparison(self.prompt, self.second, self.first)


def text_of(messages: Sequence[Mapping[str, str]]) -> str:
    """The texts of a prompt's messages, with an empty line between them."""
    return "\n\n".join(message["content"] for message in messages)


class Judgement(NamedTuple):
    """The samples whose logprobs say which answer is better, in both orders of the answers."""

    first: TrainSample  # ends with the label of the first answer
    second: TrainSample  # the same, with that of the second
    swapped_first: TrainSample
    swapped_second: TrainSample


class Comparer:
    """Renders comparisons with one tokenizer. Raises ConfigError if a label is not one token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ComparisonConfig) -> None:
        self._template = config.template
        # The template says all: a chat template would put its own text behind it.
        self._renderer = PromptRenderer(tokenizer, PromptConfig(apply_chat_template=False))
        self._labels = [_token_of(label, tokenizer) for label in config.labels]

    def labelled(self, comparison: Comparison) -> tuple[TrainSample, TrainSample]:
        """The rendered comparison, with the label of the first answer, and with that of the second."""
        prompt = self.encode(comparison)
        return example_of(prompt, self._labels[:1]), example_of(prompt, self._labels[1:])

    def judgement(self, comparison: Comparison) -> Judgement:
        """All that is asked about one comparison."""
        return Judgement(*self.labelled(comparison), *self.labelled(comparison.swapped))

    def encode(self, comparison: Comparison) -> list[int]:
        """The token ids of the template, filled in, in one pass: an answer may itself contain the text {second}."""
        parts = {
            "{prompt}": comparison.prompt,
            "{first}": comparison.first,
            "{second}": comparison.second,
        }
        text = _PARTS.sub(lambda match: parts[match[0]], self._template)
        return self._renderer.encode(Problem("comparison", ({"role": "user", "content": text},), "", ""))


def _token_of(label: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = list(tokenizer(label, add_special_tokens=False)["input_ids"])
    if len(ids) != 1:
        raise ConfigError(
            f"comparison.labels: {label!r} is {len(ids)} tokens of the model's tokenizer, and a label must be one"
        )
    return int(ids[0])


def win_probability(logprobs: Sequence[Tensor]) -> float:
    """The probability that the first answer is better, averaged over both orders.

    logprobs: of the label in each sample of a `Judgement`, [1] each.
    """
    first, second, swapped_first, swapped_second = (one[0].double() for one in logprobs)
    one_way, other_way = torch.sigmoid(first - second), torch.sigmoid(swapped_second - swapped_first)
    return float((one_way + other_way) / 2)
