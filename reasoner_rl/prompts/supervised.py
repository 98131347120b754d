"""Worked examples as training samples, for supervised fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import torch

from reasoner_rl.config.data import SftDataConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.render import WITHOUT_LENGTH_WARNING, PromptRenderer
from reasoner_rl.types import TrainSample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SupervisedReport:
    """What became of the examples."""

    samples: int
    truncated_prompts: int  # of the samples
    dropped_prompts: int  # too long
    dropped_responses: int  # too long
    longest_response: int  # tokens with EOS, before dropping
    incomplete: int = 0  # examples with a message, such as a system prompt, that the chat template leaves out

    def __str__(self) -> str:
        incomplete = f", {self.incomplete:,} with a message that the chat template leaves out"
        return (
            f"{self.samples:,} examples, {self.truncated_prompts:,} with the prompt cut on the left; "
            f"dropped {self.dropped_prompts:,} with too long a prompt, "
            f"{self.dropped_responses:,} with too long a response (longest {self.longest_response:,} tokens)"
            f"{incomplete if self.incomplete else ''}"
        )


def supervised_samples(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: SftDataConfig
) -> tuple[list[TrainSample], SupervisedReport]:
    """Return one sample per example: the prompt as in reinforcement learning, and a response, all trained.

    Raises DataError for an example without a solution, from which the response is made, or if nothing is left.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token, and every response must end with it")
    renderer = PromptRenderer(tokenizer, config.prompts)
    samples: list[TrainSample] = []
    truncated = dropped_prompts = dropped_responses = longest = 0
    for problem in problems:
        prompt_ids = renderer.encode(problem)
        prompt = renderer.fit(problem, prompt_ids)
        response_ids = _response_ids(problem, tokenizer, config)
        longest = max(longest, len(response_ids))
        if prompt is None:
            dropped_prompts += 1
        elif len(response_ids) > config.max_response_tokens:
            dropped_responses += 1
        else:
            samples.append(example_of(prompt.token_ids, response_ids))
            truncated += len(prompt_ids) > len(prompt.token_ids)
    if not samples:
        raise DataError(
            f"no example is left of {len(problems)}: {dropped_prompts} prompts are longer than "
            f"data.prompts.max_tokens={config.prompts.max_tokens}, {dropped_responses} responses longer "
            f"than data.max_response_tokens={config.max_response_tokens}"
        )
    report = SupervisedReport(
        len(samples), truncated, dropped_prompts, dropped_responses, longest, renderer.incomplete
    )
    return samples, report


def _response_ids(problem: Problem, tokenizer: PreTrainedTokenizerBase, config: SftDataConfig) -> list[int]:
    if problem.solution is None and "{solution}" in config.response_template:
        raise DataError(
            f"problem {problem.uid} (row {problem.row}) has no solution, and data.response_template needs "
            "one: set data.train.columns.solution to the column that holds it"
        )
    parts = {"{solution}": problem.solution or "", "{answer}": problem.ground_truth}
    # In one pass: a solution may itself contain the text {answer}.
    text = re.sub(r"\{solution\}|\{answer\}", lambda match: parts[match[0]], config.response_template)
    return answer_ids(text, tokenizer)


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of an answer, with one end of sequence at its end."""
    ids = list(tokenizer(text, add_special_tokens=False, **WITHOUT_LENGTH_WARNING)["input_ids"])
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def example_of(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> TrainSample:
    """A sample of an answer that exists already, all of whose tokens are trained."""
    length = len(response_ids)
    return TrainSample(
        prompt_ids=torch.from_numpy(numpy.array(prompt_ids, numpy.int64)),
        response_ids=torch.from_numpy(
            numpy.array(response_ids, numpy.int64)
        ),  # also from an array, at its speed
        loss_mask=torch.ones(length, dtype=torch.bool),
        advantages=torch.zeros(length, dtype=torch.float32),
        rollout_logprobs=torch.zeros(length, dtype=torch.float32),
        supervised=True,
    )
