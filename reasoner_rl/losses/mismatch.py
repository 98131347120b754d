"""Correction for the sampler not having been the old policy: importance weights by token or by response."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_rl.config.algorithm import ImportanceLevel, ImportanceSamplingConfig
from reasoner_rl.losses.reduce import bounded_exp, sequence_means, sequence_sums
from reasoner_rl.types import MicroBatch


def mismatch_ratio(old_logprobs: Tensor, batch: MicroBatch, level: ImportanceLevel) -> Tensor:
    """Return old / rollout probability [N] before any bound.

    token: the token's own. sequence: the product over the response's trained tokens. geometric: their geometric mean.
    In the latter two each token carries its response's value, and 1 if no token of the response is trained.
    """
    log_ratio = old_logprobs - batch.rollout_logprobs
    if level == "sequence":
        log_ratio = sequence_sums(log_ratio, batch)
    elif level == "geometric":
        log_ratio = sequence_means(log_ratio, batch)
    return bounded_exp(log_ratio)


def mismatch_weights(old_logprobs: Tensor, batch: MicroBatch, config: ImportanceSamplingConfig) -> Tensor:
    """Return the factor of each token's loss [N], without gradient of its own if ``old_logprobs`` have none.

    truncated: the ratio, at most cap, so that its variance is bounded (https://fengyao.notion.site/off-policy-rl).
    masked: the ratio, and 0 where it is outside floor to cap (IcePop, arXiv 2510.18855): a token or response about
    which the two engines disagree is not trained on. rejected: 1 or 0 by the same bounds, that is rejection without
    reweighting (https://richardli.xyz/rl-collapse). Dropped tokens still count in the loss's denominators.
    """
    ratio = mismatch_ratio(old_logprobs, batch, config.level)
    if config.kind == "truncated":
        return ratio.clamp(max=config.cap)
    kept = (ratio >= config.floor) & (ratio <= config.cap)
    return kept.to(ratio.dtype) if config.kind == "rejected" else torch.where(kept, ratio, 0.0)
