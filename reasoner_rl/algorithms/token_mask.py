"""Training only the tokens that matter: those of high entropy (arXiv 2506.01939), or a function's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Policy
from reasoner_rl.config.algorithm import TokenMaskConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.token_mask import high_entropy_mask
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.plugins import check_call, load_function
from reasoner_rl.types import TrainSample


class TokenMask:
    """Chooses the tokens of a batch that are trained.

    The user's function is loaded once, here, so that an edit of its file does not change a run. Raises ConfigError if
    it cannot be imported or does not take the samples.
    """

    def __init__(self, config: TokenMaskConfig) -> None:
        self._config = config
        self._own: Callable[..., Any] | None = None
        if config.fn is not None:
            self._own = load_function(config.fn, "token mask")
            check_call(f"token mask {config.fn!r}", self._own, f"{config.fn.rpartition(':')[2]}(samples)", ())

    def apply(self, samples: Sequence[TrainSample], policy: Policy) -> tuple[list[TrainSample], Metrics]:
        """Set the advantage of every token that is not chosen to 0, and return what to log.

        Such a token has no policy gradient; it still counts in the loss's denominator, as in the paper, and still has
        the KL and entropy terms of the loss. Entropies take one more forward pass of the policy. Raises ConfigError if
        the user's function returns something else than one bool per response token.
        """
        if self._config.kind == "none":
            return list(samples), {}
        masks = [sample.loss_mask for sample in samples]
        if self._own is not None:
            chosen = self._chosen_by(self._own, samples)
        else:
            chosen = high_entropy_mask(policy.entropies(samples), masks, self._config.share)
        kept = sum(int((one & mask).sum()) for one, mask in zip(chosen, masks, strict=True))
        share = mean(kept, sum(int(mask.sum()) for mask in masks))
        masked = [
            sample.replace(advantages=torch.where(one, sample.advantages, 0.0))
            for sample, one in zip(samples, chosen, strict=True)
        ]
        return masked, {"policy/trained_token_share": share}

    def _chosen_by(self, function: Callable[..., Any], samples: Sequence[TrainSample]) -> list[Tensor]:
        """The user's ``function(samples)``: for each sample which of its tokens are trained, [R] bool."""
        found = list(function(samples))
        shapes = [sample.loss_mask.shape for sample in samples]
        if [getattr(each, "shape", None) for each in found] != shapes or any(
            each.dtype != torch.bool for each in found
        ):
            raise ConfigError(
                f"token mask {self._config.fn!r} must return, for each sample, one bool per response token, as a tensor"
            )
        return found
