"""What several algorithms prepare alike: the logprobs that a ratio or a KL term compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from reasoner_rl.algorithms.base import Models, Policy
from reasoner_rl.types import TrainSample


def with_reference_logprobs(samples: Sequence[TrainSample], models: Models) -> list[TrainSample]:
    """Attach the logprobs of the reference policy. Raises ValueError if the run has none."""
    if models.reference is None:
        raise ValueError("a KL term needs a reference policy, and this run has none")
    found = models.reference.logprobs(samples)
    return [s.replace(reference_logprobs=values) for s, values in zip(samples, found, strict=True)]


def with_old_logprobs(
    samples: Sequence[TrainSample],
    policy: Policy,
    source: Literal["auto", "recompute", "rollout"],
    *,
    ratio_is_one: bool,
    decoupled: bool = False,
) -> list[TrainSample]:
    """Attach the denominators of the ratio, unless ``source`` is "auto" and the ratio is known to be exactly 1.

    A response of an earlier policy keeps the logprobs it was sampled with: against the present policy's the ratio
    would start at 1 and hide how far the policy has moved since. Unless ``decoupled``, where importance weights make up
    for that, so that all samples are treated alike.
    ratio_is_one: whether the batch is a single update, so that the old policy is the present one for fresh samples.
    """
    fresh = [index for index, sample in enumerate(samples) if sample.on_policy or decoupled]
    if source == "auto" and ratio_is_one and len(fresh) == len(samples):
        return list(samples)
    old: list[Tensor] = [sample.rollout_logprobs for sample in samples]
    if source != "rollout" and fresh:
        computed = policy.logprobs([samples[index] for index in fresh])
        for index, values in zip(fresh, computed, strict=True):
            old[index] = values
    return [s.replace(old_logprobs=values) for s, values in zip(samples, old, strict=True)]
