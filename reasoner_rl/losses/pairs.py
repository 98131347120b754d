"""Losses of pairs: what raises the better answer to a prompt above the worse one.

With log pi(y) the sum of a response's logprobs, |y| its number of trained tokens, c and r the chosen and the rejected
answer, each loss is the mean over the pairs of the mini-batch; a micro-batch returns its share, and shares add up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reasoner_rl.config.preference import DpoConfig, OrpoConfig, SimpoConfig
from reasoner_rl.losses.kl import kl_estimate
from reasoner_rl.losses.reduce import aggregate, sums_by_sequence, trained_lengths
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import IDLE, MicroBatch, TokenOutputs

_LARGEST_MEAN_LOGPROB = -1e-6  # at which the odds p / (1 - p) are still finite in float32


class Pairs(NamedTuple):
    """A number per pair [P] of the chosen answers, and of the rejected ones."""

    chosen: Tensor
    rejected: Tensor

    @property
    def lead(self) -> Tensor:
        """By how much the chosen answers lead, [P]."""
        return self.chosen - self.rejected


def pairs_of(by_sequence: Tensor, batch: MicroBatch) -> Pairs:
    """Cut a number per sequence [S] into pairs: of each group the first sequence is the chosen one.

    Raises ValueError if a group has another number of sequences than two.
    """
    members: dict[int, list[int]] = {}
    for place, (group, index) in enumerate(zip(batch.groups, batch.sample_indices, strict=True)):
        if index != IDLE:
            members.setdefault(group, []).append(place)
    for group, places in members.items():
        if len(places) != 2:
            raise ValueError(
                f"group {group} has {len(places)} answers in a micro-batch; a pair has a chosen and a rejected one"
            )
    answers = torch.tensor([*members.values()], dtype=torch.int64, device=by_sequence.device).reshape(-1, 2)
    return Pairs(by_sequence[answers[:, 0]], by_sequence[answers[:, 1]])


def dpo_loss(outputs: TokenOutputs, batch: MicroBatch, config: DpoConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of DPO's loss, and its metrics.

    d = log(pi(c) / ref(c)) - log(pi(r) / ref(r)), each divided by |y| if ``config.normalized``;
    the objectives are in the description of ``algorithm.objective``. Raises ValueError without reference logprobs.
    """
    if batch.reference_logprobs is None:
        raise ValueError("DPO needs reference logprobs, and the batch has none")
    ratios = pairs_of(sums_by_sequence(outputs.logprobs - batch.reference_logprobs, batch), batch)
    lengths = pairs_of(trained_lengths(batch), batch)
    lead = ratios.lead
    if config.normalized:
        lead = ratios.chosen / lengths.chosen - ratios.rejected / lengths.rejected
    if config.objective == "sigmoid":
        right, wrong = logsigmoid(config.beta * lead), logsigmoid(-config.beta * lead)
        losses = -(1 - config.label_smoothing) * right - config.label_smoothing * wrong
    elif config.objective == "ipo":
        losses = (lead - 1 / (2 * config.beta)).square()
    else:
        losses = torch.relu(1 - config.beta * lead)
    loss, metrics = _of_pairs(losses, outputs, batch, Pairs(*(config.beta * each for each in ratios)))
    if config.nll_coefficient > 0:
        nll, measured = _nll_of_chosen(_mean_logprobs(outputs, batch), batch)
        loss, metrics = loss + config.nll_coefficient * nll, metrics | measured
    kl = kl_estimate(outputs.logprobs, batch.reference_logprobs, "k3")
    if config.kl_coefficient > 0:
        loss = loss + config.kl_coefficient * aggregate(kl, batch, "token-mean")
    trained = kl.detach()[batch.loss_mask]
    return loss, metrics | {"preference/kl": mean(float(trained.sum()), len(trained))}


def orpo_loss(outputs: TokenOutputs, batch: MicroBatch, config: OrpoConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of ORPO's loss, and its metrics.

    With p(y) = exp(log pi(y) / |y|) and odds(p) = p / (1 - p):
    -log p(c) - lambda * log sigmoid(log odds(p(c)) - log odds(p(r))).
    """
    means = _mean_logprobs(outputs, batch)
    bounded = Pairs(*(each.clamp(max=_LARGEST_MEAN_LOGPROB) for each in means))
    odds = Pairs(*(each - torch.log(-torch.expm1(each)) for each in bounded))
    weight = config.odds_ratio_weight
    loss, metrics = _of_pairs(
        -weight * logsigmoid(odds.lead), outputs, batch, Pairs(*(weight * m for m in means))
    )
    nll, measured = _nll_of_chosen(means, batch)
    return loss + nll, metrics | measured


def simpo_loss(outputs: TokenOutputs, batch: MicroBatch, config: SimpoConfig) -> tuple[Tensor, Metrics]:
    """Return the micro-batch's share of SimPO's loss, and its metrics.

    -log sigmoid(beta * (log pi(c) / |c| - log pi(r) / |r|) - gamma).
    """
    means = _mean_logprobs(outputs, batch)
    rewards = Pairs(*(config.beta * each for each in means))
    loss, metrics = _of_pairs(-logsigmoid(rewards.lead - config.gamma), outputs, batch, rewards)
    if config.nll_coefficient > 0:
        nll, measured = _nll_of_chosen(means, batch)
        loss, metrics = loss + config.nll_coefficient * nll, metrics | measured
    return loss, metrics


def _mean_logprobs(outputs: TokenOutputs, batch: MicroBatch) -> Pairs:
    return pairs_of(sums_by_sequence(outputs.logprobs, batch) / trained_lengths(batch), batch)


def _nll_of_chosen(means: Pairs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """This batch's share of the mean over pairs of the chosen answer's negative log-likelihood per token, in nats.

    means: `_mean_logprobs`.
    """
    losses = -means.chosen
    loss = losses.sum() / max(batch.denominators.groups, 1.0)
    return loss, {"preference/nll": mean(float(losses.detach().sum()), len(losses))}


def _of_pairs(
    losses: Tensor, outputs: TokenOutputs, batch: MicroBatch, rewards: Pairs
) -> tuple[Tensor, Metrics]:
    """The share of a loss per pair [P], and what is logged of all methods.

    rewards: implicit ones, by which the model itself would choose; ``rewards/accuracies`` is how often it is right.
    """
    # The loss of no pairs, on an idle rank, has a graph too: backward passes are collective.
    loss = losses.sum() / max(batch.denominators.groups, 1.0)
    with torch.no_grad():
        logps = pairs_of(sums_by_sequence(outputs.logprobs, batch), batch)
        rows = [losses, *rewards, rewards.lead, (rewards.lead > 0).float(), *logps]
        sums = torch.stack([row.detach().sum() for row in rows]).tolist()
    names = (
        *("preference/loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("logps/chosen", "logps/rejected"),
    )
    return loss, {name: mean(total, len(losses)) for name, total in zip(names, sums, strict=True)}
