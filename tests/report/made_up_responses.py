"""Responses that try to break what shows them, and groups of such responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

LONG_LINE = "ab cd " * 17_000
# What responses say that a page must only ever show.
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 1"><b>bold</b>',
    "a lone surrogate \ud800, and \U0001d11e, and é",
    LONG_LINE,
    r"so $\frac{1}{2}$, \(x^2\), \[y\], \boxed{\text{<i>}} and $5 or 6$7, $\href{javascript:broken}{z}$",
)


def made_up_group(
    tokenizer: Any, uid: str, texts: Sequence[str], accuracies: Sequence[float]
) -> tuple[ScoredGroup, list[TrainSample]]:
    """A group with these responses. Token i of each has logprob -i/10, by the trainer 0.05 more, and entropy i/4."""
    rollouts, rewards, samples = [], [], []
    for number, (text, accuracy) in enumerate(zip(texts, accuracies, strict=True)):
        ids = tokenizer.encode(text[:200].encode("utf-8", "replace").decode(), add_special_tokens=False)
        logprobs = [-0.1 * place for place in range(len(ids))]
        rollouts.append(Rollout(ids, logprobs, "length" if number == 1 else "stop", 1, text))
        status = "timeout" if number == 2 else "ok"
        score = 2 * accuracy - 1
        parts = {"answer": score, "format": 0.25 * number}
        rewards.append(Reward(score, accuracy, parts, status, extracted="<i>" if accuracy else None))
        samples.append(
            TrainSample(
                prompt_ids=torch.tensor([1, 2]),
                response_ids=torch.tensor(ids),
                loss_mask=torch.arange(len(ids)) > 0,
                advantages=torch.linspace(-1, 1, len(ids)),
                rollout_logprobs=torch.tensor(logprobs),
                old_logprobs=torch.tensor(logprobs) + 0.05,
                entropies=torch.arange(len(ids)) / 4,
            )
        )
    prompt = Prompt(uid, (1, 2), f"<b>{uid}</b>: what is $1 + 1$?", "<i>", "made up")
    return ScoredGroup(prompt, tuple(rollouts), tuple(rewards)), samples


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
