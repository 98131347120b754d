"""Final answers as typed values, and whether two of them are the same."""

from __future__ import annotations

from reward_fns.answers.equality import Rules, same_answer
from reward_fns.answers.reader import canonical, is_text, reading

__all__ = ["Rules", "canonical", "is_text", "reading", "same_answer"]
