"""The critic's part of PPO (arXiv 1707.06347): regression on the returns, held near what the critic said before."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_rl.config.algorithm import ValueLossConfig
from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import MicroBatch, ValueOutputs


def value_loss(outputs: ValueOutputs, batch: MicroBatch, config: ValueLossConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of half the mean squared error, a scalar, and its metrics ``value/...``.

    With clip c a token's loss is max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / 2: a value that has gone
    further than c towards its return gets no gradient. Shares add up to the mean over the mini-batch's trained tokens.
    Values and returns are in units of the reward. Bind ``config`` with functools.partial to get a LossFunction. Where
    ``batch.loss_mask`` is False, values, returns and old values may hold anything.
    Raises ValueError if the batch has no returns, or no old values and ``config.clip`` is set.
    """
    if batch.returns is None:
        raise ValueError("the value loss needs returns, and the batch has none")
    # Only here does the gradient enter, so nothing that happens at a masked position can reach it.
    values = torch.where(batch.loss_mask, outputs.values, 0.0)
    plain = (values - batch.returns).square()
    errors = plain
    if config.clip is not None:
        if batch.old_values is None:
            raise ValueError("a clipped value loss needs old values, and the batch has none")
        kept = values.clamp(batch.old_values - config.clip, batch.old_values + config.clip)
        errors = torch.maximum(plain, (kept - batch.returns).square())
    loss = aggregate(0.5 * errors, batch, "token-mean")
    with torch.no_grad():
        counted = torch.stack([batch.loss_mask, (errors > plain) & batch.loss_mask]).sum(1)
        # A single transfer from the device.
        share, total, tokens, clipped = torch.cat([torch.stack([loss, values.sum()]), counted]).tolist()
    return loss, {
        # Shares of the loss add up within an update and average over updates: their weights sum to 1 per update.
        "value/loss": mean(share, tokens / max(batch.denominators.tokens, 1.0)),
        "value/clip_fraction": mean(clipped, tokens),
        "value/mean": mean(total, tokens),
    }
