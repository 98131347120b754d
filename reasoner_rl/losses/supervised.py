"""The loss of supervised fine-tuning."""

from __future__ import annotations

from torch import Tensor

from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import MicroBatch, TokenOutputs


def supervised_loss(outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """Return the negative log-likelihood, in nats, averaged over the mini-batch's trained tokens.

    This is this micro-batch's share of it: shares add up. ``sft/loss`` is the mean over the tokens merged.
    """
    loss = aggregate(-outputs.logprobs, batch, "token-mean")
    total = float(loss.detach()) * max(batch.denominators.tokens, 1.0)
    return loss, {"sft/loss": mean(total, float(batch.loss_mask.sum()))}
