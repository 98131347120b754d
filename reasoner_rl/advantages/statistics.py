"""Statistics over the valid tokens of a whole batch, computed before it is cut: whitening, and logged figures.

Columns are [R] for each response and hold anything where the mask [R] bool is False. Sums are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reasoner_rl.metrics import Metrics, mean

_VARIANCE_FLOOR = 1e-8


def whiten(columns: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Return (x - mean) / sqrt(variance + 1e-8), [R] float32 for each response; 0 where not valid.

    Mean and variance, the latter with n - 1 in its denominator, are those of all n valid tokens of the batch, as in
    verl's ``masked_whiten``. With n < 2 everything is 0, since nothing is known of the spread; verl refuses that.
    """
    valid = _valid(columns, masks)
    if len(valid) < 2:
        return [torch.zeros(len(mask)) for mask in masks]
    centre, scale = valid.mean(), (valid.var() + _VARIANCE_FLOOR).rsqrt()
    return [
        torch.where(mask, (column.double() - centre) * scale, 0.0).float()
        for column, mask in zip(columns, masks, strict=True)
    ]


def explained_variance(returns: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Return 1 - Var(returns - values) / Var(returns) over the valid tokens of the batch.

    1: the critic knows the returns up to a constant. 0: no better than a constant. Negative: worse than one. NaN where
    the returns do not differ, since there is nothing to explain.
    """
    wanted, said = _valid(returns, masks), _valid(values, masks)
    spread = _variance(wanted)
    return 1 - _variance(wanted - said) / spread if spread > 0 else math.nan


def critic_metrics(returns: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> Metrics:
    """Return how well the values before the update foretold the returns, as metrics ``value/...`` of the batch.

    explained_variance (left out where NaN), error_mean (values - returns: positive where the critic is too hopeful),
    error_rms, and `column_metrics` of the returns. Nothing for a batch without valid tokens.
    """
    errors = _valid(values, masks) - _valid(returns, masks)
    if not len(errors):
        return {}
    explained = explained_variance(returns, values, masks)
    return {
        **({} if math.isnan(explained) else {"value/explained_variance": mean(explained)}),
        "value/error_mean": mean(errors.mean().item()),
        "value/error_rms": mean(errors.square().mean().sqrt().item()),
        **column_metrics("value/return", returns, masks),
    }


def column_metrics(name: str, columns: Sequence[Tensor], masks: Sequence[Tensor]) -> Metrics:
    """Return ``{name}_mean``, ``_std`` (with n in its denominator), ``_min`` and ``_max`` over the valid tokens."""
    valid = _valid(columns, masks)
    if not len(valid):
        return {}
    return {
        f"{name}_mean": mean(valid.mean().item()),
        f"{name}_std": mean(math.sqrt(_variance(valid))),
        f"{name}_min": mean(valid.min().item()),
        f"{name}_max": mean(valid.max().item()),
    }


def _valid(columns: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """All valid numbers of a batch in one tensor, float64."""
    parts = [column[mask].double() for column, mask in zip(columns, masks, strict=True)]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts])


def _variance(numbers: Tensor) -> float:
    """With n in the denominator; 0 for fewer than two numbers."""
    return numbers.var(correction=0).item() if len(numbers) > 1 else 0.0
