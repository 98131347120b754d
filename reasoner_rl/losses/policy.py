"""The clipped policy-gradient objective of PPO (arXiv 1707.06347) and what GRPO, DAPO and GSPO made of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.losses.reduce import aggregate, sequence_means
from reasoner_rl.metrics import Metrics, maximum, mean
from reasoner_rl.types import MicroBatch, TokenOutputs

_LOG_RATIO_LIMIT = 20.0
_NOTICEABLE_GAP = 0.1  # nats; the ratio is then off by a tenth, half of the usual clip range


def policy_loss(outputs: TokenOutputs, batch: MicroBatch, config: LossConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the objective to minimise, a scalar, and its metrics ``policy/...``.

    Shares of micro-batches and ranks add up to the loss of the mini-batch. Bind ``config`` with
    functools.partial to get a LossFunction. If ``batch.old_logprobs`` is None, the policy itself is the old
    policy and every ratio is 1. Where ``batch.loss_mask`` is False, logprobs and entropy may hold anything.
    Raises ValueError if a KL loss is asked for and the batch has no reference logprobs.
    """
    # Only here does the gradient enter, so nothing that happens at a masked position can reach it.
    logprobs = torch.where(batch.loss_mask, outputs.logprobs, 0.0)
    old = _old_logprobs(logprobs, batch, config)
    ratio = importance_ratio(logprobs, old, batch, config)
    losses = clipped_surrogate(ratio, batch.advantages, config)
    if config.importance_sampling.kind != "none":
        losses = losses * mismatch_weights(old, batch.rollout_logprobs, config.importance_sampling)
    if config.kl.place == "loss" and config.kl.coefficient > 0:
        if batch.reference_logprobs is None:
            raise ValueError("loss.kl.coefficient > 0 needs reference logprobs, and the batch has none")
        kl = kl_estimate(logprobs, batch.reference_logprobs, config.kl.estimator)
        losses = losses + config.kl.coefficient * kl
    if config.entropy_coefficient > 0:
        losses = losses - config.entropy_coefficient * outputs.entropy
    loss = aggregate(losses, batch, config.aggregation)
    with torch.no_grad():
        means, maxima = _observe_policy(logprobs, old, ratio, batch, config)
        means["entropy"] = outputs.entropy
        gap_means, gap_maxima = _observe_rollout(logprobs, old, batch, config)
        trained, compared = batch.loss_mask, batch.loss_mask & batch.on_policy
        tokens = trained.sum() / max(batch.denominators.tokens, 1.0)
        # Shares of the loss add up within an update and average over updates: their weights sum to 1 an update.
        metrics: Metrics = {"policy/loss": mean(loss.item(), tokens.item())}
        return loss, metrics | _reduce(means, maxima, trained) | _reduce(gap_means, gap_maxima, compared)


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, batch: MicroBatch, config: LossConfig) -> Tensor:
    """Return policy / old policy [N], a token's own or its response's.

    A response's ratio is the geometric mean of its tokens' (GSPO, arXiv 2507.18071), in the form GSPO-token:
    each token carries the response's value and its own logprob's gradient.
    """
    log_ratio = logprobs - old_logprobs
    if config.ratio == "sequence":
        log_ratio = sequence_means(log_ratio.detach(), batch) + logprobs - logprobs.detach()
    return _bounded_exp(log_ratio)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of each token [N]: max(-A r, -A clip(r)), and for A < 0 at most -A times the dual clip.

    Without the dual clip (arXiv 1912.09729), a token with A < 0 that became likelier has an unbounded loss.
    """
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if config.dual_clip is None:
        return losses
    return torch.where(advantages < 0, torch.minimum(losses, -advantages * config.dual_clip), losses)


def _old_logprobs(logprobs: Tensor, batch: MicroBatch, config: LossConfig) -> Tensor:
    if config.old_logprobs == "rollout":
        return batch.rollout_logprobs
    return logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs


def mismatch_weights(
    old_logprobs: Tensor, rollout_logprobs: Tensor, config: ImportanceSamplingConfig
) -> Tensor:
    """Return old / rollout probability [N], which corrects for the sampler not having been the old policy.

    Truncated at the cap (https://fengyao.notion.site/off-policy-rl), the weight's variance is bounded. Masked outside
    floor to cap (IcePop, arXiv 2510.18855), a token about which the two engines disagree is not trained on at all.
    """
    weights = _bounded_exp(old_logprobs - rollout_logprobs)
    if config.kind == "masked":
        return torch.where((weights >= config.floor) & (weights <= config.cap), weights, 0.0)
    return weights.clamp(max=config.cap)


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


# What is observed of the tokens, [N] each, by name: to be averaged, and to take the maximum of.
Observations = tuple[dict[str, Tensor], dict[str, Tensor]]


def _observe_policy(
    logprobs: Tensor, old: Tensor, ratio: Tensor, batch: MicroBatch, config: LossConfig
) -> Observations:
    """How far the policy is from the old one and the reference, and where a bound stopped its gradient."""
    negative, positive = batch.advantages < 0, batch.advantages > 0
    means = {
        "ratio_mean": ratio,
        "approx_kl": kl_estimate(old, logprobs, "k3"),
        "clip_fraction_low": negative & (ratio < 1 - config.clip_low),
        "clip_fraction_high": positive & (ratio > 1 + config.clip_high),
    }
    if config.dual_clip is not None:
        means["dual_clip_fraction"] = negative & (ratio > config.dual_clip)
    if batch.reference_logprobs is not None:
        means["kl"] = kl_estimate(logprobs, batch.reference_logprobs, "k3")
    return means, {"ratio_max": ratio}


def _observe_rollout(logprobs: Tensor, old: Tensor, batch: MicroBatch, config: LossConfig) -> Observations:
    """How far the rollout engine's probabilities are from the trainer's for the same weights.

    Only of on-policy tokens: the trainer's view of an earlier policy is not known. If the rollout's logprobs serve
    as the old ones, the trainer's are known for the present weights only, and the gap holds what the updates of the
    step changed too.
    """
    trainer = logprobs if config.old_logprobs == "rollout" else old
    gap = (trainer - batch.rollout_logprobs).abs()
    means = {
        "rollout_gap_mean": gap,
        "rollout_gap_share": gap > _NOTICEABLE_GAP,
        "rollout_kl": kl_estimate(batch.rollout_logprobs, trainer, "k3"),
    }
    correction = config.importance_sampling
    if correction.kind != "none":
        weights = _bounded_exp(old - batch.rollout_logprobs)
        means["importance_weight_mean"] = mismatch_weights(old, batch.rollout_logprobs, correction)
        means["importance_weight_above"] = weights > correction.cap
        if correction.kind == "masked":
            means["importance_weight_below"] = weights < correction.floor
    return means, {"rollout_gap_max": gap}


def _reduce(means: Mapping[str, Tensor], maxima: Mapping[str, Tensor], mask: Tensor) -> Metrics:
    """Reduce observations over the tokens of ``mask`` [N], with a single transfer from the device."""
    seen = torch.where(mask, torch.stack([value.float() for value in means.values()]), 0.0)
    # None of the observed maxima is negative; the column of zeros serves a batch of no tokens.
    highest = F.pad(torch.where(mask, torch.stack(list(maxima.values())), 0.0), (0, 1))
    tokens, *reduced = torch.cat([mask.sum()[None], seen.sum(1), highest.amax(1)]).tolist()
    metrics = {
        f"policy/{name}": mean(total, tokens)
        for name, total in zip(means, reduced[: len(means)], strict=True)
    }
    if tokens:
        tops = zip(maxima, reduced[len(means) :], strict=True)
        metrics |= {f"policy/{name}": maximum(top) for name, top in tops}
    return metrics
