"""A check that what a run logs is explained; tests/conftest.py applies it to the runs of all tests."""

from __future__ import annotations

from collections.abc import Mapping

from reasoner_rl.metrics import Metric, Reduction
from reasoner_rl.observability.glossary import MetricDoc, meaning_of

# How the glossary begins to say what becomes of several numbers -> how they are merged. "once": there is one number.
REDUCTIONS: dict[str, set[Reduction]] = {
    "mean": {"mean"},
    "sum": {"sum"},
    "largest": {"max"},
    "once": {"mean", "sum", "max"},
}


def is_reduced_by(doc: MetricDoc, reduction: Reduction) -> bool:
    """Whether the glossary says so, as far as it says."""
    return reduction in REDUCTIONS[doc.reduced.partition(" ")[0]]


def require_documented(metrics: Mapping[str, Metric]) -> None:
    """Fail on a metric that the glossary does not have, or that is reduced otherwise than it says."""
    for key, metric in metrics.items():
        doc = meaning_of(key)
        assert doc is not None, f"{key} is logged, and is not in reasoner_rl/observability/glossary.yaml"
        assert is_reduced_by(doc, metric.reduction), f"{key}: {doc.reduced!r}, and it is a {metric.reduction}"
