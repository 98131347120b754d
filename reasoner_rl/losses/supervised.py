"""The losses of supervised fine-tuning."""

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


def weighted_supervised_loss(outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the weighted negative log-likelihood per token; advantages are the weights."""
    loss = aggregate(-batch.advantages * outputs.logprobs, batch, "token-mean")
    nll = -outputs.logprobs.detach()[batch.loss_mask]
    share = float(batch.loss_mask.sum()) / max(batch.denominators.tokens, 1.0)
    return loss, {
        # Shares add up within an update: their weights sum to 1.
        "preference/loss": mean(float(loss.detach()), share),
        "preference/nll": mean(float(nll.sum()), len(nll)),
    }
