"""Reward functions are told the tag with which the prompt ends."""

from __future__ import annotations

import pytest

from reasoner_rl.rewards.contract import OPENED_TAG, opened_tag
from reasoner_rl.rewards.queueing import RewardTask, answer_of
from reward_fns import compute_score, extraction


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<|im_start|>assistant\n<think>\n", "think"),
        ("Solve.\n<answer>", "answer"),
        ("Answer within <think> and </think>", ""),
        ("<think></think>\n", ""),
        ("<|im_start|>", ""),
        ("", ""),
    ],
)
def test_the_tag_with_which_a_prompt_ends(prompt: str, tag: str) -> None:
    assert opened_tag(prompt) == tag


def test_a_response_cut_off_while_thinking_states_no_answer() -> None:
    assert OPENED_TAG == extraction.OPENED_TAG
    for tag, status in (("think", "unparsed"), ("", "correct")):
        task = RewardTask("math", r"Maybe \boxed{4}? Let me look", "4", {"level": 1}, opened_tag=tag)
        source, response, truth, extra_info = answer_of(task)
        assert extra_info == {"level": 1, **({"opened_tag": "think"} if tag else {})}
        assert compute_score(source, response, truth, dict(extra_info))["status"] == status
