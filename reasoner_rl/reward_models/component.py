"""A reward model's score as a part of the reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import pstdev
from typing import TYPE_CHECKING

from reasoner_rl.batching.reading import EXTRA_TOKENS
from reasoner_rl.config.data import PromptConfig
from reasoner_rl.metrics import Metrics, mean, mean_of
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.render import PromptRenderer
from reasoner_rl.prompts.supervised import answer_ids, example_of
from reasoner_rl.reward_models.judges import Judge
from reasoner_rl.types import REWARD_MODEL, Prompt, ScoredGroup, TrainSample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def judged(groups: Sequence[ScoredGroup], judge: Judge, weight: float) -> tuple[list[ScoredGroup], Metrics]:
    """The same groups with the reward model's scores, times ``weight``, added to the rewards.

    Raises FloatingPointError if a score is not finite.
    """
    scores, counted = judge.scores(groups)
    flat = [score for group in scores for score in group]
    if not all(map(math.isfinite, flat)):
        raise FloatingPointError("the reward model gave a score that is not finite")
    with_scores = [_added(group, own, weight) for group, own in zip(groups, scores, strict=True)]
    metrics: Metrics = {
        "reward_model/score": mean_of(flat),
        "reward_model/deviation": mean(pstdev(flat)),
        # Of the responses that are trained on, with the model's share: reward/score is without it.
        "reward_model/reward": mean_of(reward.score for group in with_scores for reward in group.rewards),
    }
    right = [share for group in with_scores for share in agreements(group)]
    if right:
        metrics |= {"reward_model/accuracy": mean(sum(right), len(right))}
    return with_scores, metrics | counted


def _added(group: ScoredGroup, scores: Sequence[float], weight: float) -> ScoredGroup:
    rewards = tuple(
        replace(
            reward,
            score=reward.score + weight * score,
            components={**reward.components, REWARD_MODEL: score},
        )
        for reward, score in zip(group.rewards, scores, strict=True)
    )
    return replace(group, rewards=rewards)


def agreements(group: ScoredGroup) -> list[float]:
    """For each two responses of which the verifier finds one better: whether the model does too; a tie counts half.

    Empty for a group that no reward model has judged.
    """
    known = [
        (reward.accuracy, reward.components[REWARD_MODEL])
        for reward in group.rewards
        if reward.accuracy is not None and REWARD_MODEL in reward.components
    ]
    leads = [score - other for accuracy, score in known for lesser, other in known if accuracy > lesser]
    return [0.5 if lead == 0 else float(lead > 0) for lead in leads]


class OwnTokens:
    """Makes of a group what a pointwise model with a tokenizer of its own reads.

    The messages of the data's prompt are rendered with the model's own chat template, where it has one, and the
    response's text without special tokens follows, with an end of sequence if the policy ended it. What is longer than
    ``context`` loses its beginning.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], context: int | None
    ) -> None:
        self._tokenizer, self._context = tokenizer, context
        self._renderer = PromptRenderer(tokenizer, PromptConfig())
        self._messages = {prompt.uid: prompt.messages for prompt in prompts}

    def __call__(self, group: ScoredGroup) -> list[TrainSample]:
        """A sample per response."""
        uid = group.prompt.uid
        prompt = self._renderer.encode(Problem(uid, self._messages[uid], "", ""))
        return [
            self._sample(prompt, rollout.text, rollout.finish_reason == "stop") for rollout in group.rollouts
        ]

    def _sample(self, prompt: Sequence[int], text: str, ended: bool) -> TrainSample:
        answer = answer_ids(text, self._tokenizer)
        if not ended and len(answer) > 1:
            answer = answer[:-1]
        whole = [*prompt, *answer]
        if self._context is not None:
            whole = whole[-(self._context - EXTRA_TOKENS) :]
        return example_of(whole[:-1], whole[-1:])
