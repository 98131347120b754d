"""Prompts -> rollouts -> rewards, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.rewards.base import Rewards
from reasoner_rl.rewards.contract import opened_tag
from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.rollout.engine import GenerationRequest, Generator
from reasoner_rl.seeding import derive_seed
from reasoner_rl.types import Prompt, Rollout, ScoredGroup


def generate_groups(
    prompts: Sequence[Prompt],
    generator: Generator,
    rewards: Rewards,
    sampling: SamplingConfig,
    samples: int,
    *,
    seed_parts: tuple[int | str, ...],
    timer: PhaseTimer,
    progress: bool | Literal["auto"],
    first: int = 0,
) -> list[ScoredGroup]:
    """Draw ``samples`` responses to each prompt and score them; groups come in the order of the prompts.

    first: the number of the first prompt, where ``prompts`` are a part of more. A response's randomness depends on
    ``seed_parts``, its prompt and that prompt's number, and its own number in the group alone.
    """
    requests = [
        GenerationRequest(prompt.token_ids, samples, derive_seed(*seed_parts, index, prompt.uid))
        for index, prompt in enumerate(prompts, start=first)
    ]
    responses = len(requests) * samples
    with timer("generate"), progress_bar(progress, "generating", responses) as advance:
        rollouts = generator.generate(requests, sampling, advance)
    return score_groups(prompts, rollouts, rewards, timer=timer, progress=progress)


def score_groups(
    prompts: Sequence[Prompt],
    rollouts: Sequence[Sequence[Rollout]],
    rewards: Rewards,
    *,
    timer: PhaseTimer,
    progress: bool | Literal["auto"],
) -> list[ScoredGroup]:
    """Score the responses to each prompt; groups come in the order of the prompts."""
    tasks = [
        replace(reward_task(prompt, rollout), truncated=rollout.finish_reason == "length", group=number)
        for number, (prompt, group) in enumerate(zip(prompts, rollouts, strict=True))
        for rollout in group
    ]
    with timer("reward"), progress_bar(progress, "scoring", len(tasks)) as advance:
        scored = iter(rewards.score(tasks, advance))
    return [
        ScoredGroup(prompt, tuple(group), tuple(next(scored) for _ in group))
        for prompt, group in zip(prompts, rollouts, strict=True)
    ]


def reward_task(prompt: Prompt, rollout: Rollout) -> RewardTask:
    """The verifiers' task for one response by itself, without the length limit and its group."""
    return RewardTask(
        data_source=prompt.data_source,
        response=rollout.text,
        ground_truth=prompt.ground_truth,
        extra_info=prompt.extra_info,
        response_tokens=len(rollout.token_ids),
        opened_tag=opened_tag(prompt.text),
    )
