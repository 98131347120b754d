"""Fingerprints of data: what changes them, and what is said of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from reasoner_rl.prompts.fingerprint import difference, fingerprint
from reasoner_rl.types import Prompt, TrainSample

PROMPTS = [
    Prompt(f"a/{n}", (n, 7), f"prompt {n}", str(n), "math", {"index": n, "level": [n]}) for n in range(3)
]


def test_the_same_prompts_have_one_fingerprint_wherever_they_lie() -> None:
    moved = [dataclasses.replace(prompt, uid=f"b/{n}") for n, prompt in enumerate(PROMPTS)]
    assert fingerprint(moved) == fingerprint(PROMPTS)
    assert difference(fingerprint(PROMPTS), fingerprint(moved)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": (1, 8)},
        {"ground_truth": "2"},
        {"extra_info": {"index": 1, "level": [2]}},
    ],
)
def test_whatever_the_model_or_a_reward_function_is_told_counts(change: dict[str, Any]) -> None:
    changed = [PROMPTS[0], dataclasses.replace(PROMPTS[1], **change), PROMPTS[2]]
    assert difference(fingerprint(PROMPTS), fingerprint(changed)) == "other rows"


def test_another_data_source_is_named() -> None:
    changed = [dataclasses.replace(prompt, data_source="physics") for prompt in PROMPTS]
    said = "the same rows with another data_source (the file's name, where no column says it)"
    assert difference(fingerprint(PROMPTS), fingerprint(changed)) == said


def test_another_order_and_another_number_are_told_apart() -> None:
    reordered = [
        dataclasses.replace(prompt, extra_info={**prompt.extra_info, "index": n})
        for n, prompt in enumerate(reversed(PROMPTS))
    ]
    old = fingerprint(PROMPTS)
    assert difference(old, fingerprint(reordered)) == "the same rows in another order"
    assert difference(old, fingerprint(PROMPTS[:2])) == "2 rows instead of 3"


def test_worked_examples_too() -> None:
    def example(response: int) -> TrainSample:
        ids, floats = torch.tensor([1, 2]), torch.zeros(2)
        return TrainSample(
            prompt_ids=ids,
            response_ids=torch.tensor([response, 3]),
            loss_mask=ids > 0,
            advantages=floats,
            rollout_logprobs=floats,
        )

    old = fingerprint([example(4), example(5)])
    assert difference(old, fingerprint([example(4), example(6)])) == "other rows"
    assert difference(old, fingerprint([example(5), example(4)])) == "the same rows in another order"
