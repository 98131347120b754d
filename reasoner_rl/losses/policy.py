"""The policy's loss: an objective token by token, corrected, regularised and averaged, and what is observed of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from reasoner_rl.config.algorithm import ImportanceSamplingConfig, LossConfig
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.losses.mismatch import mismatch_ratio, mismatch_weights
from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.losses.surrogates import Surrogate, policy_surrogate
from reasoner_rl.metrics import Metrics, maximum, mean
from reasoner_rl.types import MicroBatch, TokenOutputs

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
    surrogate = policy_surrogate(logprobs, old, batch, config)
    losses = surrogate.losses
    if config.importance_sampling.kind != "none":
        losses = losses * mismatch_weights(old, batch, config.importance_sampling)
    if config.kl.coefficient > 0:
        if batch.reference_logprobs is None:
            raise ValueError("loss.kl.coefficient > 0 needs reference logprobs, and the batch has none")
        kl = kl_estimate(logprobs, batch.reference_logprobs, config.kl.estimator)
        losses = losses + config.kl.coefficient * kl
    if config.entropy_coefficient > 0:
        losses = losses - config.entropy_coefficient * outputs.entropy
    loss = aggregate(losses, batch, config.aggregation)
    with torch.no_grad():
        means, maxima = _observe_policy(logprobs, old, surrogate, batch, config)
        means["entropy"] = outputs.entropy
        gap_means, gap_maxima = _observe_rollout(logprobs, old, batch, config)
        # Decoupled, weights make up for earlier policies too, and are of all tokens.
        decoupled = config.stale_old_logprobs == "trainer"
        (means if decoupled else gap_means).update(_observe_weights(old, batch, config.importance_sampling))
        trained, compared = batch.loss_mask, batch.loss_mask & batch.on_policy
        tokens = trained.sum() / max(batch.denominators.tokens, 1.0)
        # Shares of the loss add up within an update and average over updates: their weights sum to 1 per update.
        metrics: Metrics = {"policy/loss": mean(loss.item(), tokens.item())}
        return loss, metrics | _reduce(means, maxima, trained) | _reduce(gap_means, gap_maxima, compared)


def _old_logprobs(logprobs: Tensor, batch: MicroBatch, config: LossConfig) -> Tensor:
    if config.old_logprobs == "rollout":
        return batch.rollout_logprobs
    return logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs


# What is observed of the tokens, [N] each, by name: to be averaged, and to take the maximum of.
Observations = tuple[dict[str, Tensor], dict[str, Tensor]]


def _observe_policy(
    logprobs: Tensor, old: Tensor, surrogate: Surrogate, batch: MicroBatch, config: LossConfig
) -> Observations:
    """How far the policy is from the old one and the reference, and where a bound of the objective was met."""
    means = {
        "ratio_mean": surrogate.ratio,
        "approx_kl": kl_estimate(old, logprobs, "k3"),
        "clip_fraction_low": surrogate.clipped_low,
        "clip_fraction_high": surrogate.clipped_high,
    }
    if config.dual_clip is not None:
        means["dual_clip_fraction"] = (batch.advantages < 0) & (surrogate.ratio > config.dual_clip)
    if batch.reference_logprobs is not None:
        means["kl"] = kl_estimate(logprobs, batch.reference_logprobs, "k3")
    return means, {"ratio_max": surrogate.ratio}


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
    return means, {"rollout_gap_max": gap}


def _observe_weights(
    old: Tensor, batch: MicroBatch, correction: ImportanceSamplingConfig
) -> dict[str, Tensor]:
    """The importance weights, and how many of the ratios were outside of the bounds."""
    if correction.kind == "none":
        return {}
    ratio = mismatch_ratio(old, batch, correction.level)
    means = {
        "importance_weight_mean": mismatch_weights(old, batch, correction),
        "importance_weight_above": ratio > correction.cap,
    }
    if correction.kind != "truncated":
        means["importance_weight_below"] = ratio < correction.floor
    return means


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
