"""Verifiers of answers: plain functions of text, standard library only, usable without the trainer.

``compute_score`` chooses the rule from the data source; every rule is also a plug-in by itself.
"""

from __future__ import annotations

from reward_fns.registry import compute_score

__all__ = ["compute_score"]
