"""Rewards -> advantages -> samples that carry every logprob their loss needs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reasoner_rl.advantages.group import assign
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.distributed.group import WorkerGroup
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.types import ScoredGroup, TrainSample


def make_samples(
    groups: Sequence[ScoredGroup], config: OnlineConfig, workers: WorkerGroup, version: int, timer: PhaseTimer
) -> list[TrainSample]:
    """One sample a response, in the order of the groups, with advantages and old and reference logprobs."""
    loss = config.algorithm.loss
    samples = assign(groups, config.algorithm.advantage)
    penalty_in_reward = loss.kl.coefficient > 0 and loss.kl.place == "reward"
    with timer("logprobs"):
        samples = _with_old_logprobs(samples, config, workers, version, always=penalty_in_reward)
        if loss.kl.coefficient > 0:
            reference = workers.logprobs(samples, reference=True)
            samples = [s.replace(reference_logprobs=r) for s, r in zip(samples, reference, strict=True)]
    if not penalty_in_reward:
        return samples
    penalised = assign(groups, config.algorithm.advantage, _kl_penalties(groups, samples, config))
    return [s.replace(advantages=p.advantages) for s, p in zip(samples, penalised, strict=True)]


def _with_old_logprobs(
    samples: list[TrainSample], config: OnlineConfig, workers: WorkerGroup, version: int, *, always: bool
) -> list[TrainSample]:
    """Attach the denominators of the ratio, unless it is exactly 1.

    A surplus response of an earlier policy keeps the logprobs it was sampled with: against the present policy's
    the ratio would start at 1 and hide how far the policy has moved since.
    """
    source = config.algorithm.loss.old_logprobs
    samples = [s.replace(on_policy=s.policy_version == version) for s in samples]
    fresh = [index for index, sample in enumerate(samples) if sample.on_policy]
    ratio_is_one = step_arithmetic(config).updates_per_step == 1 and len(fresh) == len(samples)
    if source == "auto" and ratio_is_one and not always:
        return samples
    old: list[Tensor] = [sample.rollout_logprobs for sample in samples]
    if source != "rollout" and fresh:
        computed = workers.logprobs([samples[index] for index in fresh])
        for index, values in zip(fresh, computed, strict=True):
            old[index] = values
    return [s.replace(old_logprobs=values) for s, values in zip(samples, old, strict=True)]


def _kl_penalties(
    groups: Sequence[ScoredGroup], samples: Sequence[TrainSample], config: OnlineConfig
) -> list[list[float]]:
    """What each response's KL to the reference, summed over its tokens, takes off its score: [groups][G]."""
    kl = config.algorithm.loss.kl
    penalties = []
    for sample in samples:
        if sample.old_logprobs is None or sample.reference_logprobs is None:
            raise ValueError("KL in the reward needs the policy's and the reference's logprobs")
        per_token = kl_estimate(sample.old_logprobs, sample.reference_logprobs, kl.estimator)
        penalties.append(kl.coefficient * float(per_token.sum()))
    remaining = iter(penalties)
    return [[next(remaining) for _ in group.rollouts] for group in groups]
