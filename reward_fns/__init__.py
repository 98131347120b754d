"""Verifiers of answers: plain functions of text, usable without the trainer; of other packages they need mpmath alone.

``verify_math`` judges a mathematical answer. ``compute_score`` chooses the rule from the data source, with verl's
signature; every rule is also a plug-in by itself.
"""

from __future__ import annotations

from reward_fns.registry import compute_score
from reward_fns.verify import RewardResult, verify_math

__all__ = ["RewardResult", "compute_score", "verify_math"]
