"""Training on the tokens that matter alone: those of high entropy (arXiv 2506.01939), or a function's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Policy
from reasoner_rl.config.algorithm import TokenMaskConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.token_mask import high_entropy_mask
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.plugins import load_function
from reasoner_rl.types import TrainSample


def mask_advantages(
    samples: Sequence[TrainSample], policy: Policy, config: TokenMaskConfig
) -> tuple[list[TrainSample], Metrics]:
    """Set the advantage of every token that is not chosen to 0, and return what to log.

    Such a token has no policy gradient; it still counts in the loss's denominator, as in the paper, and still has the
    KL and entropy terms of the loss. Entropies take one more forward pass of the policy.
    """
    if config.kind == "none":
        return list(samples), {}
    masks = [sample.loss_mask for sample in samples]
    if config.kind == "entropy":
        chosen = high_entropy_mask(policy.entropies(samples), masks, config.share)
    else:
        chosen = _chosen_by(config.fn or "", samples)
    kept = sum(int((one & mask).sum()) for one, mask in zip(chosen, masks, strict=True))
    share = mean(kept, sum(int(mask.sum()) for mask in masks))
    masked = [
        sample.replace(advantages=torch.where(one, sample.advantages, 0.0))
        for sample, one in zip(samples, chosen, strict=True)
    ]
    return masked, {"policy/trained_token_share": share}


def _chosen_by(fn: str, samples: Sequence[TrainSample]) -> list[Tensor]:
    """The user's ``fn(samples)``: for each sample which of its tokens are trained, [R] bool."""
    found = list(load_function(fn, "token mask")(samples))
    shapes = [sample.loss_mask.shape for sample in samples]
    if [getattr(each, "shape", None) for each in found] != shapes or any(
        each.dtype != torch.bool for each in found
    ):
        raise ConfigError(
            f"token mask {fn!r} must return, for each sample, one bool per response token, as a tensor"
        )
    return found
