"""Fingerprints of data: what changes them, and what is said of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from reasoner_rl.prompts.fingerprint import difference, fingerprint
from reasoner_rl.types import Example, Prompt, TrainSample

PROMPTS = [
    Prompt(f"a/{n}", (n, 7), f"prompt {n}", str(n), "math", {"index": n, "level": [n]}) for n in range(3)
]


def test_the_same_prompts_have_one_fingerprint_wherever_they_lie() -> None:
    moved = [dataclasses.replace(prompt, uid=f"b/{n}") for n, prompt in enumerate(PROMPTS)]
    assert fingerprint(moved) == fingerprint(PROMPTS)
    assert difference(fingerprint(PROMPTS), fingerprint(moved)) is None


def test_what_is_in_checkpoints_stays_the_same() -> None:
    """Another value would make every older run refuse its own data."""
    assert fingerprint(PROMPTS) == {
        "rows": 3,
        "contents": "46b890246efe85f4e64908b9d4350210abb39b8ac85ba5f4e5a4b15bee5e07b1",
        "order": "b4d81a16a9a6b97ebac7057f3fec932d4f8c86a2c64cf11424c6354ca3260975",
        "without_source": "9e353ca8cda524158b42e3a81ae8b6024b315547301ba906c8e45951238c8c97",
    }


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
    def example(response: int, score: float = 0.0) -> Example:
        ids, floats = torch.tensor([1, 2]), torch.zeros(2)
        sample = TrainSample(
            prompt_ids=ids,
            reward=score,
            response_ids=torch.tensor([response, 3]),
            loss_mask=ids > 0,
            advantages=floats,
            rollout_logprobs=floats,
        )
        return (sample,)

    one = "687bfb93c3626d7e5978d1e45224634e22947c1cff521e4debe22e7755706220"
    assert fingerprint([example(5)]) == {"rows": 1, "contents": one, "order": one, "without_source": one}
    old = fingerprint([example(4), example(5)])
    assert difference(old, fingerprint([example(4), example(6)])) == "other rows"
    assert difference(old, fingerprint([example(5), example(4)])) == "the same rows in another order"
    assert difference(old, fingerprint([example(4), example(5, score=1.0)])) == "other rows"
