"""What reward models learn from pairs of answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reasoner_rl.config.reward_model import PointwiseConfig
from reasoner_rl.losses.pairs import pairs_of
from reasoner_rl.losses.reduce import aggregate, sums_by_sequence
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import MicroBatch, TokenOutputs, ValueOutputs


def bradley_terry_loss(
    outputs: ValueOutputs, batch: MicroBatch, config: PointwiseConfig
) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the Bradley-Terry loss (arXiv 2203.02155), and its metrics.

    -log sigmoid(s(c) - s(r) - m) + center * (s(c) + s(r))^2, averaged over pairs, with s(y) an answer's score and
    m the pair's margin, which is the difference of ``batch.rewards`` (arXiv 2307.09288). Each sequence has one
    position at which its score is read; see `reasoner_rl.batching.reading`.
    """
    scores = pairs_of(sums_by_sequence(outputs.values, batch), batch)
    margins = pairs_of(batch.rewards, batch).lead
    losses = -logsigmoid(scores.lead - margins)
    if config.center > 0:
        losses = losses + config.center * (scores.chosen + scores.rejected).square()
    with torch.no_grad():
        rows = [losses, *scores, scores.lead, (scores.lead > 0).float()]
        sums = torch.stack([row.detach().sum() for row in rows]).tolist()
    names = (
        "reward_model/loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
    )
    # The loss of no pairs, on an idle rank, has a graph too: backward passes are collective.
    loss = losses.sum() / max(batch.denominators.groups, 1.0)
    return loss, {name: mean(total, len(losses)) for name, total in zip(names, sums, strict=True)}


def label_loss(outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the mean negative log-likelihood, in nats, of the better answer's label.

    ``reward_model/label_probability`` is the label's mean probability among all tokens of the vocabulary.
    """
    loss = aggregate(-outputs.logprobs, batch, "token-mean")
    known = outputs.logprobs.detach()[batch.loss_mask]
    return loss, {
        "reward_model/loss": mean(-float(known.sum()), len(known)),
        "reward_model/label_probability": mean(float(known.exp().sum()), len(known)),
    }
