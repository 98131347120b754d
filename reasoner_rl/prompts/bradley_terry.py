"""The adapter to choix, which fits the model of Bradley and Terry (1952), P(i beats j) = 1 / (1 + exp(s_j - s_i))."""

from __future__ import annotations

import warnings

import numpy

from reasoner_rl.errors import require_package
from reasoner_rl.prompts.ranking_scores import Array

_MAX_ITERATIONS, _TOLERANCE = 10_000, 1e-10


def require_choix() -> None:
    """Raise MissingExtraError if choix is not installed."""
    require_package("choix", "choix", "preferences", "--method bradley-terry")


def bradley_terry(wins: Array) -> Array | None:
    """The log-odds [N] of most likelihood for wins [N, N], with the mean 0; None if they cannot be computed.

    The likelihood must have a maximum, as `has_finite_scores` says. By iterated Luce spectral ranking (Maystre and
    Grossglauser, 2015, "Fast and accurate inference of Plackett-Luce models"), which fails in 64 bits where strengths
    lie more than about 70 nats apart.
    """
    import choix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what becomes NaN, and is looked for below
        try:
            found = choix.ilsr_pairwise_dense(wins, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)
        except (RuntimeError, ValueError):  # no convergence; a chain without a stationary distribution
            return None
    strengths = numpy.asarray(found, dtype=numpy.float64)
    return strengths - strengths.mean() if numpy.isfinite(strengths).all() else None
