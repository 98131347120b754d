"""The loss of KTO (arXiv 2402.01306), of single answers that are good or bad."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_rl.config.preference import KtoConfig
from reasoner_rl.losses.reduce import sums_by_sequence, trained_lengths
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import IDLE, MicroBatch, TokenOutputs


def kto_loss(outputs: TokenOutputs, batch: MicroBatch, config: KtoConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of the mean over answers, a scalar, and its metrics.

    With r = log(pi(y) / ref(y)) and z0 the estimate of the KL divergence in ``batch.kl_baseline``, a good answer costs
    lambda_D (1 - sigmoid(beta (r - z0))) and a bad one lambda_U (1 - sigmoid(beta (z0 - r))). An answer is good if its
    reward is above 0.5. No gradient goes through z0. Raises ValueError without reference logprobs or z0.
    """
    if batch.reference_logprobs is None or batch.kl_baseline is None:
        raise ValueError(
            "KTO needs reference logprobs and an estimate of the KL divergence, and the batch lacks one"
        )
    lengths = trained_lengths(batch)
    ratios = sums_by_sequence(outputs.logprobs - batch.reference_logprobs, batch)
    baselines = sums_by_sequence(batch.kl_baseline, batch) / lengths
    good = batch.rewards > 0.5
    real = torch.tensor([index != IDLE for index in batch.sample_indices], device=good.device)
    utilities = torch.sigmoid(config.beta * torch.where(good, ratios - baselines, baselines - ratios))
    weights = torch.where(good, config.desirable_weight, config.undesirable_weight)
    losses = torch.where(real, weights * (1 - utilities), 0.0)
    loss = losses.sum() / max(batch.denominators.sequences, 1.0)
    return loss, _metrics(losses, config.beta * ratios, sums_by_sequence(outputs.logprobs, batch), good, real)


@torch.no_grad()
def _metrics(losses: Tensor, rewards: Tensor, logps: Tensor, good: Tensor, real: Tensor) -> Metrics:
    chosen, rejected = good & real, ~good & real
    parts = [losses, rewards * chosen, rewards * rejected, logps * chosen, logps * rejected, chosen, rejected]
    loss, *sums, of_good, of_bad = torch.stack([part.float().sum() for part in parts]).tolist()
    counts = (of_good, of_bad, of_good, of_bad)
    names = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
    return {
        "preference/loss": mean(loss, of_good + of_bad),
        **{name: mean(total, count) for name, total, count in zip(names, sums, counts, strict=True)},
    }
