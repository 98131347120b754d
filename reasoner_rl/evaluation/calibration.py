"""Whether a model that says 80 % is right in 80 % of such cases; by scikit-learn, which is imported nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasoner_rl.errors import require_package


@dataclass(frozen=True, slots=True)
class Calibration:
    """Stated against observed frequencies, over bins of equal width of the stated probability.

    Each pair is asked about from both sides, so that the outcome is not the same in all: the chosen answer wins with
    probability p, and the rejected one with 1 - p. The diagram is therefore symmetric about its middle.
    """

    stated: tuple[float, ...]  # mean probability of the cases in each bin that has any
    observed: tuple[float, ...]  # share of them that came true
    shares: tuple[float, ...]  # of all cases
    brier: float  # mean squared error of the probabilities

    @classmethod
    def of(cls, probabilities: Sequence[float], bins: int) -> Calibration:
        """probabilities: that the chosen answer of each pair is the better one, as a model says."""
        require_package("sklearn", "scikit-learn", "preferences", "the calibration of a reward model")
        from sklearn.calibration import calibration_curve
        from sklearn.metrics import brier_score_loss

        said = np.asarray(probabilities, dtype=np.float64)
        cases = np.concatenate([said, 1 - said])
        came_true = np.concatenate([np.ones(len(said)), np.zeros(len(said))])
        observed, stated = calibration_curve(came_true, cases, n_bins=bins)
        # The bins of calibration_curve, which leaves empty ones out and does not say how many cases are in each.
        edges = np.linspace(0, 1, bins + 1)
        counts = np.bincount(np.searchsorted(edges[1:-1], cases), minlength=bins)
        return cls(
            tuple(map(float, stated)),
            tuple(map(float, observed)),
            tuple(float(count) / len(cases) for count in counts if count),
            float(brier_score_loss(came_true, cases)),
        )

    @property
    def error(self) -> float:
        """The expected calibration error (arXiv 1706.04599): the mean distance of observed from stated."""
        bins = zip(self.stated, self.observed, self.shares, strict=True)
        return sum(share * abs(observed - stated) for stated, observed, share in bins)
